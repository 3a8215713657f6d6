"""How far a linear head's outputs have moved, without its outputs.

A head's numbers for T conditions and C slots are `F W^T + b`, with features F `(T, C, F)`. With
starred values remembered, the change is

    F W^T + b - F* W*^T - b*  =  [F - F*, F*, 1] [W, W - W*, b - b*]^T  =  D E^T,

and its squared norm is the sum of the elementwise product of the Gram matrices `D^T D` and
`E^T E`: no array of the output's size, and no difference of nearly equal large numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hyperloom._form import Delta, Whole
from hyperloom._layout import Head, Piece
from hyperloom._plan import Plan


@dataclass(frozen=True)
class Rows:
    """Rows of a head that count alike.

    Attributes:
        ranges: Ranges of rows, `(start, stop)`.
        factors: What each slot's numbers in these rows count, `(C,)`.
    """

    ranges: tuple[tuple[int, int], ...]
    factors: tuple[float, ...]


def rows_that_count(head: Head, pieces: Sequence[tuple[Piece, float]]) -> tuple[Rows, ...]:
    """Return which rows of a head count how much in which slot.

    Args:
        head: The head.
        pieces: Its pieces, each with a factor on the squares of its numbers.
    """
    spans: list[tuple[int, int, int, float]] = []  # slot, first row, last row, factor
    for piece, factor in pieces:
        at, stop = piece.start, piece.start + piece.numel
        while at < stop:
            slot, row = divmod(at, head.slot_size)
            end = min(head.slot_size, row + stop - at)
            spans.append((slot, row, end, factor))
            at += end - row
    edges = sorted({edge for _, row, end, _ in spans for edge in (row, end)})
    found: dict[tuple[float, ...], list[tuple[int, int]]] = {}
    for start, stop in pairwise(edges):
        factors = [0.0] * head.num_slots
        for slot, row, end, factor in spans:
            if row <= start and stop <= end:
                factors[slot] = factor
        found.setdefault(tuple(factors), []).append((start, stop))
    return tuple(Rows(tuple(ranges), factors) for factors, ranges in found.items())


def linear_pieces(
    plan: Plan, index: int, weights: Mapping[str, float | None], scales: np.ndarray | None
) -> list[tuple[Piece, float]] | None:
    """Return a head's pieces with the factor on their squares; `None` if one has no such.

    Args:
        plan: The plan.
        index: The head's place in it.
        weights: Importance of each tensor; `None` for one that is no number.
        scales: `(num_pieces, 2)`, scale and shift of each piece; `None` if no head has any.
    """
    made, row = [], 0
    for entry in plan.entries:
        weight = weights[entry.tensor]
        for piece in entry.pieces:
            if piece.head == index:
                if entry.form not in (Whole(), Delta()) or weight is None:
                    return None
                scaled = scales is not None and plan.heads[index].scaled
                scale = float(scales[row, 0]) if scaled else 1.0  # type: ignore[index]
                made.append((piece, float(weight) * scale**2))
            row += 1
    return made


def gram_is_cheaper(
    head: Head, features: int, num: int, num_rows: int, slower: float = 1.0
) -> bool:
    """Whether Gram matrices take less time than outputs for `num` conditions.

    Both are matrix products; an output's number is also written and read about eight times in a
    forward and backward pass, as long as about 100 operations of a product (measured on CPU, in
    PyTorch).

    Args:
        head: The head.
        features: Width of its features.
        num: Number of conditions.
        num_rows: Number of sets of rows that count alike.
        slower: How much slower than there Gram matrices are, beside outputs.
    """
    slots, width = num * head.num_slots, 2 * features + 1
    outputs = slots * head.slot_size * (6 * features + 100)
    grams = 6 * width**2 * (head.slot_size + num_rows * slots)
    return slower * grams < outputs
