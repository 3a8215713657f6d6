"""How far a linear head's outputs have moved, without its outputs.

A head's numbers for T conditions and C slots are `F W^T + b`, with features F `(T, C, F)`. With
starred values remembered, the change is

    F W^T + b - F* W*^T - b*  =  [F - F*, F*, 1] [W, W - W*, b - b*]^T  =  D E^T,

and its squared norm is the sum of the elementwise product of the Gram matrices `D^T D` and
`E^T E`: no array of the output's size, and no difference of nearly equal large numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from hyperloom._layout import Head, Piece


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


@dataclass(frozen=True)
class HeadMemory:
    """What is remembered of a linear head.

    Attributes:
        features: `(T, C, F)`, signs in.
        weight: `(S, F)`.
        bias: `(S,)`.
        rows: What counts how much.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor
    rows: tuple[Rows, ...]

    def distance(
        self, features: Tensor, weight: Tensor, bias: Tensor, index: Tensor | None
    ) -> Tensor:
        """Return the weighted squared norm of the change, summed over conditions.

        Args:
            features: Features now, `(T, C, F)`.
            weight: Weight now.
            bias: Bias now.
            index: Which of the remembered conditions `features` are for; `None` for all.
        """
        old = self.features if index is None else self.features[index]
        d = torch.cat([features - old, old, torch.ones_like(old[..., :1])], -1)
        e = torch.cat([weight, weight - self.weight, (bias - self.bias).unsqueeze(-1)], -1)
        # One split: its backward pass is one concatenation.
        edges = sorted({edge for rows in self.rows for span in rows.ranges for edge in span})
        cuts = e[: edges[-1]].split([stop - start for start, stop in pairwise(edges)])
        place = dict(zip(edges, cuts, strict=False))
        terms = []
        for rows in self.rows:
            part = [place[start] for start, _ in rows.ranges]
            e_rows = part[0] if len(part) == 1 else torch.cat(part)
            factors = d.new_tensor(rows.factors).unsqueeze(-1)
            d_gram = (d * factors).flatten(0, 1).mT @ d.flatten(0, 1)
            terms.append((d_gram * (e_rows.mT @ e_rows)).sum())
        return torch.stack(terms).sum()


def gram_is_cheaper(head: Head, features: int, num: int, num_rows: int) -> bool:
    """Whether Gram matrices take less time than outputs for `num` conditions.

    Both are matrix products; an output's number is also written and read about eight times in a
    forward and backward pass, as long as about 100 operations of a product (measured on CPU).
    """
    slots, width = num * head.num_slots, 2 * features + 1
    outputs = slots * head.slot_size * (6 * features + 100)
    grams = 6 * width**2 * (head.slot_size + num_rows * slots)
    return grams < outputs
