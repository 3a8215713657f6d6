"""What the output regularisers of all backends look up and refuse. No framework needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import numpy as np

from hyperloom._core.arrays import ArrayKind
from hyperloom._core.choices.conditions import Concat, Condition, Noise
from hyperloom._core.choices.layouts import Head, Piece
from hyperloom._core.errors import a_mapping, a_string, did_you_mean, finite_float, message
from hyperloom._core.plan.cost import forced
from hyperloom._core.plan.plan import Entry, Plan


def weight_of(weights: Mapping[str, Any], name: str) -> Any:
    """Return the importance of a tensor: that of the first pattern that names it, or 1."""
    matching = (weight for pattern, weight in weights.items() if fnmatchcase(name, pattern))
    return next(matching, 1.0)


def given_weights(weights: object, kind: ArrayKind) -> dict[str, Any]:
    """Return the importance of tensors, if it is a dict from patterns to numbers and arrays.

    Raises:
        TypeError: It is not.
    """
    wanted = f"a dict from name patterns to a number or {kind.word}"
    weight_of_pattern = dict(a_mapping("weights", {} if weights is None else weights, wanted))
    for pattern, weight in weight_of_pattern.items():
        a_string("weights", pattern, wanted)
        if not isinstance(weight, kind.types):
            finite_float(f"weights[{pattern!r}]", weight)
    return weight_of_pattern


def check_weights(weights: Mapping[str, Any], plan: Plan, kind: ArrayKind) -> None:
    """Raise `ValueError` for a weight that is for nothing, or does not fit what it is for.

    Args:
        weights: Name pattern -> weight.
        plan: Whose tensors are meant.
        kind: The backend's arrays.
    """
    shapes = {entry.tensor: plan.spec[entry.tensor].shape for entry in plan.entries}
    for pattern, weight in weights.items():
        named = [name for name in shapes if fnmatchcase(name, pattern)]
        if not named:
            got = f"the pattern {pattern!r}, which names no generated tensor"
            way_out = did_you_mean(pattern, shapes)
            raise ValueError(message("weights", got, "patterns that do", way_out))
        size = tuple(getattr(weight, "shape", ()))
        for name in named:
            if not _broadcasts(size, shapes[name]):
                got = f"{kind.word} of shape {size} for {name!r}"
                wanted = f"a number, or a shape that broadcasts to {shapes[name]}"
                raise ValueError(message(f"weights[{pattern!r}]", got, wanted))


def check_fixed(choice: Condition, value: Any, kind: ArrayKind) -> None:
    """Raise `ValueError` for a raw value that asks for noise which differs from call to call.

    Args:
        choice: The condition.
        value: Its raw value.
        kind: The backend's arrays: noise that is given is one.
    """
    if _is_drawn(choice, value, kind.types):
        wanted = "conditions that are the same at each call"
        way_out = f"Give the noise itself, as {kind.word}."
        raise ValueError(message("conditions", "noise to be drawn anew", wanted, way_out))


def check_batch(batch: tuple[int, ...]) -> None:
    """Raise `ValueError` for conditions that do not have one batch dimension."""
    if len(batch) != 1:
        got = f"conditions with dimensions {batch}"
        raise ValueError(message("conditions", got, "a batch (T,)", "For one: [id]."))


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether `small` broadcasts to exactly `large`."""
    tails = zip(reversed(small), reversed(large), strict=False)
    return len(small) <= len(large) and all(a in (1, b) for a, b in tails)


def _is_drawn(choice: Condition, value: Any, arrays: tuple[type, ...]) -> bool:
    if isinstance(choice, Concat) and isinstance(value, (tuple, list)):
        pairs = zip(choice.parts, value, strict=False)
        return any(_is_drawn(part, v, arrays) for part, v in pairs)
    return isinstance(choice, Noise) and not isinstance(value, arrays)


@dataclass(frozen=True)
class Rows:
    """Rows of a head that count alike.

    Attributes:
        ranges: Ranges of rows, `(start, stop)`.
        factors: Factor on the squares of each slot's numbers in these rows, `(C,)`.
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
        for at, stop in piece.ranges():
            while at < stop:
                slot, row = divmod(at, head.slot_size)
                end = min(head.slot_size, row + stop - at)
                spans.append((slot, row, end, factor))
                at += end - row
    edges = sorted({edge for _, row, end, _ in spans for edge in (row, end)})
    ranges_of_factors: dict[tuple[float, ...], list[tuple[int, int]]] = {}
    for start, stop in pairwise(edges):
        factors = [0.0] * head.num_slots
        for slot, row, end, factor in spans:
            if row <= start and stop <= end:
                factors[slot] = factor
        ranges_of_factors.setdefault(tuple(factors), []).append((start, stop))
    return tuple(Rows(tuple(ranges), factors) for factors, ranges in ranges_of_factors.items())


def linear_pieces(
    plan: Plan, index: int, weights: Mapping[str, float | None], scales: np.ndarray | None
) -> list[tuple[Piece, float]] | None:
    """Return a head's pieces, each with the factor on its squares; `None` if one piece has none.

    Args:
        plan: The plan.
        index: The head's place in it.
        weights: Importance of each tensor; `None` for one that is no number.
        scales: `(num_pieces, 2)`, scale and shift of each piece; `None` if no head has any.
    """
    weighted, row = [], 0
    for entry in plan.entries:
        weight = weights[entry.tensor]
        for piece in entry.pieces:
            if piece.head == index:
                if weight is None or not _moves_alone(plan, entry):
                    return None
                scaled = scales is not None and plan.heads[index].scaled
                scale = float(scales[row, 0]) if scaled else 1.0  # type: ignore[index]
                weighted.append((piece, float(weight) * scale**2))
            row += 1
    return weighted


def _moves_alone(plan: Plan, entry: Entry) -> bool:
    """Whether a tensor changes by exactly what its only part changes."""
    one_part = plan.structures[entry.tensor].one_part and not entry.form.trains_base
    return one_part and entry.pieces[0].shape == plan.spec[entry.tensor].shape


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
        slower: How many times slower Gram matrices are than in that measurement, relative to
            outputs.
    """
    way = forced("penalties")
    if way is not None:
        return way == "gram"
    slots, width = num * head.num_slots, 2 * features + 1
    outputs = slots * head.slot_size * (6 * features + 100)
    grams = 6 * width**2 * (head.slot_size + num_rows * slots)
    return slower * grams < outputs
