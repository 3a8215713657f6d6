"""No head: the trunk's features are the generated numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hyperloom._core.choices.layouts.base import (
    Layout,
    refuse_number_by_number,
    scale_and_shift,
    whole_piece,
)
from hyperloom._core.choices.layouts.rows import own_rows
from hyperloom._core.errors import a_bool, message, positive_int
from hyperloom._core.pieces import Placement
from hyperloom._core.records import Head, Part, Segment, Source


@dataclass(frozen=True, repr=False)
class Direct(Layout):
    """The trunk's features are the tensors' numbers, in a row, cut to as many as there are.

    For trunks that end in as many features as numbers are wanted, or more, such as `Deconv`.
    With embeddings the trunk is run several times, as in `Chunked`. Unlike with `Given()`, the
    tensors start as `init` says: each has a fixed scale.

    Args:
        size: Features of the trunk: the numbers of one run.
        embedding: Width of the embeddings of the runs; 0 (default) for a single run.
        per_condition: Embeddings of its own for each condition id. Default False.

    Raises:
        ValueError: `size` below 1, or too small for a single run.
    """

    size: int
    embedding: int = 0
    per_condition: bool = False

    def __post_init__(self) -> None:
        positive_int("Direct(size=)", self.size)
        positive_int("Direct(embedding=)", self.embedding, least=0)
        a_bool("Direct(per_condition=)", self.per_condition)
        if self.per_condition and not self.embedding:
            wanted = "embedding of at least 1 with per_condition=True"
            raise ValueError(message("Direct(embedding=)", 0, wanted))

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        refuse_number_by_number(parts, self)
        for part in parts:
            if part.start.exact:
                got = f"{self} for {part.tensor!r}, which must start at exactly {part.start.mean}"
                raise ValueError(message("layout", got, "a layout with a head (Chunked, Full)"))
        total = sum(math.prod(part.shape) for part in parts)
        if not self.embedding and self.size < total:
            way_out = "Use a larger one, or an embedding for several runs."
            raise ValueError(message("Direct(size=)", self.size, f"at least {total}", way_out))
        pieces, start = [], 0
        for part in parts:
            scale, shift = scale_and_shift(part, 1.0, parts)
            pieces.append((part, whole_piece(first_head, start, part, scale, shift)))
            start += math.prod(part.shape)
        starts = [part.start for part in parts]
        head = Head(
            "direct",
            Source.GIVEN,
            math.ceil(total / self.size) if self.embedding else 1,
            self.size,
            total,
            self.embedding,
            self.per_condition,
            any(s.measured or (s.mean, s.std) != (0.0, 1.0) for s in starts),
            False,
            (Segment(0, self.size, 0.0, 1.0),),
        )
        return [Placement(head, tuple(pieces))]


@dataclass(frozen=True, repr=False)
class Given(Layout):
    """No head: the trunk's features, or the condition's vector, are the tensors' numbers.

    For a generator of the user's own that returns all numbers in one flat vector, tensor after
    tensor in the target's order, each in row-major order: as `condition`, or as `trunk`. With
    `condition=Vector(P)` the hypernetwork is the target as a function of a flat vector.

    The vector has exactly as many numbers as the tensors have. How the generated network starts
    out is up to the generator: `init` has no say in it.

    Raises:
        ValueError: A trunk (or condition) of another width, or an init that asks for the target's
            own values (`BiasHyperInit`) or for matrices (`Orthogonal`).
    """

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        refuse_number_by_number(parts, self)
        placements = own_rows("given", Source.GIVEN, parts, first_head)
        return [replace(p, head=replace(p.head, segments=())) for p in placements]
