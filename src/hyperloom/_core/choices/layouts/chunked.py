"""One head, run once per chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hyperloom._core.choices.layouts.base import (
    Layout,
    common_std,
    needs_scales,
    scale_and_shift,
    whole_piece,
)
from hyperloom._core.errors import a_bool, message, positive_int
from hyperloom._core.records import Head, Part, Placement, Segment, Source


@dataclass(frozen=True, repr=False)
class Chunked(Layout):
    """The tensors' numbers, in a row, cut into chunks; one small head is run once per chunk.

    Each chunk has a learned embedding that the trunk sees beside the condition. The last chunk
    is cut to what is left. Von Oswald et al., "Continual learning with hypernetworks", ICLR 2020.

    Args:
        size: Numbers in a chunk.
        embedding: Width of the chunk embeddings. Default 32.
        per_condition: Chunk embeddings of its own for each condition id. Default False.
        signs: Each chunk sees the features under fixed random signs of its own, without which
            chunks start correlated and activations grow from layer to layer (see
            `docs/initialisation.md`). Default True; False is the head as it was published.

    Raises:
        TypeError: `per_condition` or `signs` is no bool.
        ValueError: `size` or `embedding` below 1.
    """

    size: int
    embedding: int = 32
    per_condition: bool = False
    signs: bool = True

    def __post_init__(self) -> None:
        positive_int("Chunked(size=)", self.size)
        positive_int("Chunked(embedding=)", self.embedding)
        a_bool("Chunked(per_condition=)", self.per_condition)
        a_bool("Chunked(signs=)", self.signs)

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        refuse_native(parts, self)
        made = []
        # A change that must start at zero needs a head that does.
        for exact in (False, True):
            stream = [part for part in parts if part.start.exact is exact]
            if stream:
                made.append(self._stream(stream, first_head + len(made)))
        return made

    def _stream(self, parts: Sequence[Part], head: int) -> Placement:
        total = sum(math.prod(part.shape) for part in parts)
        size = min(self.size, total)
        common = common_std(parts)
        pieces, start = [], 0
        for part in parts:
            scale, shift = scale_and_shift(part, common, parts)
            pieces.append((part, whole_piece(head, start, part, scale, shift)))
            start += math.prod(part.shape)
        made = Head(
            "chunked",
            Source.FEATURES,
            math.ceil(total / size),
            size,
            total,
            self.embedding,
            self.per_condition,
            needs_scales(parts),
            self.signs,
            (Segment(0, size, 0.0, common),),
        )
        return Placement(made, tuple(pieces))


def refuse_native(parts: Sequence[Part], layout: Layout) -> None:
    """Raise if a part must start as the target's own values, which shared rows cannot hold."""
    for part in parts:
        if part.start.native:
            raise ValueError(
                message(
                    "init",
                    f"BiasHyperInit() for {part.tensor!r}, which {layout} generates",
                    "a layout with a row for every number (Full)",
                    "With form=Delta(trained=True) every layout starts as the target.",
                )
            )
