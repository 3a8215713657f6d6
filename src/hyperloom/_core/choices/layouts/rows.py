"""Layouts in which every generated number has a row of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hyperloom._core.choices.layouts.base import Layout, whole_piece
from hyperloom._core.pieces import Piece, Placement
from hyperloom._core.records import Head, Part, Segment, Source


def own_rows(
    name: str, source: Source, parts: Sequence[Part], head: int, copies: bool = False
) -> list[Placement]:
    """Place the parts one after the other in a single slot, each with its own start.

    With `copies`, tensors that start at random start as copies of the target's values instead.
    """
    segments: list[Segment] = []
    pieces: list[tuple[Part, Piece]] = []
    row = 0
    for part in parts:
        stop = row + math.prod(part.shape)
        copy = part.start.native or (copies and part.whole and not part.start.exact)
        native = part.tensor if copy else None
        begin = part.start
        segments.append(Segment(row, stop, begin.mean, begin.std, native, begin.orthogonals))
        pieces.append((part, whole_piece(head, row, part, 1.0, 0.0)))
        row = stop
    row_head = Head(name, source, 1, row, row, 0, False, False, False, tuple(segments))
    return [Placement(row_head, tuple(pieces))]


@dataclass(frozen=True, repr=False)
class Full(Layout):
    """A row of the head for every generated number: the largest and most expressive layout.

    The head has `P * (F + 1)` learned numbers for `P` generated ones and `F` features.
    """

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        return own_rows("full", Source.FEATURES, parts, first_head)


@dataclass(frozen=True, repr=False)
class PerCondition(Layout):
    """A learned tensor for each condition id, with no generator between: norms, output layers.

    Needs a condition with ids (`Embedding`).
    """

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        return own_rows("per_condition", Source.TABLE, parts, first_head)


@dataclass(frozen=True, repr=False)
class Shared(Layout):
    """One learned tensor for all conditions.

    It starts as a copy of the target's own values. (A tensor that no pattern names is not
    learned: it stays the target's own.)
    """

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        return own_rows("shared", Source.SHARED, parts, first_head, copies=True)
