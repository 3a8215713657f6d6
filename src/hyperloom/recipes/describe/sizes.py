"""The three sizes of Text-to-LoRA's generator: what one run of a head gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hyperloom._core.choices.layouts.base import common_std, needs_scales, scale_and_shift
from hyperloom._core.choices.layouts.told import told_apart
from hyperloom._core.choices.slot_parts import (
    OfBlock,
    OfLayer,
    OfModule,
    OfRole,
    SlotSum,
    number_and_type,
)
from hyperloom._core.errors import one_of
from hyperloom.extend import Head, Layout, Part, Piece, Placement, Segment, Source

SIZES = ("S", "M", "L")


@dataclass(frozen=True, repr=False)
class SharedHeads(Layout):
    """A head for each type of module gives A and B in turn, or a rank of one of them in turn.

    A slot is as wide as the wider of the two; what is more than the other needs is not used. B
    cannot start at exactly zero in rows that it shares with A, so it starts as A does: the model
    starts a little beside the base, as in the authors' program.

    Args:
        width: Width of the embeddings of slots: layer, type of module, A or B, and rank.
        ranks: Whether a slot is one rank (size S), not all of them (size M).
    """

    width: int
    ranks: bool

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        """Place the parts of each module type in a head of their own."""
        groups: dict[str, list[Part]] = {}
        for part in parts:
            groups.setdefault(number_and_type(part.layer)[1], []).append(part)
        kinds = (OfLayer(), OfModule(), OfRole(), *((OfBlock(),) if self.ranks else ()))
        placed = [self._place(g, first_head + i) for i, g in enumerate(groups.values())]
        return told_apart(self, SlotSum(self.width, *kinds), placed)

    def _place(self, parts: Sequence[Part], head: int) -> Placement:
        size = max(math.prod(_tile(part, self.ranks)) for part in parts)
        common, pieces, slot = common_std(parts), list[tuple[Part, Piece]](), 0
        for part in parts:
            tile = _tile(part, self.ranks)
            grid = tuple(n // t for n, t in zip(part.shape, tile, strict=True))
            scale, shift = scale_and_shift(part, common, parts)
            pieces.append((part, Piece(head, slot * size, tile, grid, size, scale, shift)))
            slot += math.prod(grid)
        rows = (Segment(0, size, 0.0, common),)
        options = (slot, size, slot * size, self.width, False, needs_scales(parts), True, rows)
        return Placement(Head("shared_heads", Source.FEATURES, *options), tuple(pieces))


def _tile(part: Part, ranks: bool) -> tuple[int, ...]:
    """Return the shape of what one slot gives of a factor."""
    return tuple(1 if ranks and axis == part.rank_axis else n for axis, n in enumerate(part.shape))


def a_size(size: object) -> str:
    """Return a size of the generator; raise if it is none."""
    one_of("size", size, SIZES)
    return str(size)
