"""One head, run once per chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hyperloom._core.choices.layouts.base import Layout, in_slots
from hyperloom._core.choices.layouts.told import told_apart
from hyperloom._core.choices.slot_parts import SlotEmbedding, embedding_width, refuse_by_id
from hyperloom._core.errors import a_bool, positive_int
from hyperloom._core.pieces import Placement
from hyperloom._core.records import Part


@dataclass(frozen=True, repr=False)
class Chunked(Layout):
    """The tensors' numbers, in a row, cut into chunks; one small head is run once per chunk.

    Each chunk has a learned embedding that the trunk sees beside the condition. The last chunk
    is cut to what is left. Von Oswald et al., "Continual learning with hypernetworks", ICLR 2020.

    Args:
        size: Numbers in a chunk.
        embedding: Width of the chunk embeddings, default 32; or a `SlotSum` or `PerModule`, which
            say what each chunk's first number belongs to.
        per_condition: Chunk embeddings of its own for each condition id. Default False.
        signs: Each chunk sees the features under fixed random signs of its own, without which
            chunks start correlated and activations grow from layer to layer (see
            `docs/initialisation.md`). Default True; False is the head as it was published.

    Raises:
        TypeError: `per_condition` or `signs` is no bool.
        ValueError: `size` or `embedding` below 1, `per_condition` with embeddings that say what a
            chunk is, or two chunks of which they say the same.
    """

    size: int
    embedding: int | SlotEmbedding = 32
    per_condition: bool = False
    signs: bool = True

    def __post_init__(self) -> None:
        positive_int("Chunked(size=)", self.size)
        embedding_width("Chunked(embedding=)", self.embedding)
        a_bool("Chunked(per_condition=)", self.per_condition)
        refuse_by_id("Chunked", self.embedding, self.per_condition)
        a_bool("Chunked(signs=)", self.signs)

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        width = embedding_width("Chunked(embedding=)", self.embedding)
        options = (width, self.per_condition, self.signs)
        placements = in_slots(self, "chunked", parts, first_head, self.size, *options)
        return told_apart(self, self.embedding, placements)
