"""What layouts share: where the numbers of a part stand in a head's output, and how it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hyperloom._core.choice import Choice
from hyperloom._core.errors import message, positive_int
from hyperloom._core.pieces import Piece, Placement
from hyperloom._core.records import Head, Part, Segment, Source


@dataclass(frozen=True, repr=False)
class Layout(Choice, open=True):
    """Base class: which numbers become which weights.

    A layout places parts in heads, and that is all it does: see `hyperloom.extend`.
    """

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        """Place `parts`; the heads returned are numbered from `first_head`."""
        raise TypeError(f"{type(self).__name__} does not define compile()")


def common_std(parts: Sequence[Part]) -> float:
    """Return the root mean square, over numbers, of the stds of parts that start at random."""
    total = sum(math.prod(p.shape) for p in parts if p.start.std > 0)
    if not total:
        return 0.0
    squares = sum(math.prod(p.shape) * p.start.std**2 for p in parts)
    return math.sqrt(squares / total)


def scale_and_shift(part: Part, common: float, parts: Sequence[Part]) -> tuple[float, float]:
    """Return the fixed scale and shift that give `part` its start from rows of std `common`.

    A part that starts constant (a norm's scale, a zero bias) cannot do so exactly in rows that it
    shares. It varies around its constant by the smallest standard deviation of the random parts
    of its own layer, or of all `parts` where its layer has none: little beside what the layer
    computes, and enough to learn. Where a start is measured, ratios within 2 % of 1, which is how
    well its standard deviation is known, count as 1.
    """
    if common == 0.0:
        return 1.0, part.start.mean
    std = part.start.std
    if std == 0.0:
        random = [other for other in parts if other.start.std > 0]
        beside = [other.start.std for other in random if other.layer == part.layer]
        std = min(beside or [other.start.std for other in random])
    ratio, known_to = std / common, 0.02 if part.start.measured else 1e-9
    return (1.0 if abs(ratio - 1) < known_to else ratio), part.start.mean


def needs_scales(parts: Sequence[Part]) -> bool:
    """Whether parts that share rows start differently, or at a mean that rows do not give.

    Measured starts always count as different: the same choices must give the same tensors for
    every template, or a checkpoint of one would be read without its scales by another.
    """
    starts = [part.start for part in parts]
    different = len({start.std for start in starts}) > 1 or any(start.mean for start in starts)
    return different or any(start.measured for start in starts)


def whole_piece(head: int, start: int, part: Part, scale: float, shift: float) -> Piece:
    """Return the piece of a part that stands in one block."""
    ones = (1,) * len(part.shape)
    return Piece(head, start, part.shape, ones, scale=scale, shift=shift)


def in_slots(
    layout: Layout,
    name: str,
    parts: Sequence[Part],
    first_head: int,
    size: int,
    embedding: int,
    per_condition: bool = False,
    signs: bool = True,
) -> list[Placement]:
    """Place parts one after the other in the slots of one head, whose rows they share.

    Each part has a fixed scale of its own, so that it starts as it should. Parts that must start
    at exactly zero get a head of their own, which does.

    Args:
        layout: The layout, for errors.
        name: Name of the head.
        parts: The parts.
        first_head: Index that the head will have.
        size: Numbers in a slot; the last is cut to what is left.
        embedding: Width of the slots' embeddings; 0 for none, where there is one slot.
        per_condition: Whether each condition id has embeddings of its own.
        signs: Whether each slot sees the features under signs of its own.

    Raises:
        TypeError: A `size` or `embedding` that is no int.
        ValueError: A `size` below 1, an `embedding` below 0, or a part whose numbers must each
            start as they are told (`BiasHyperInit`, `Orthogonal`).
    """
    positive_int("in_slots(size=)", size)
    positive_int("in_slots(embedding=)", embedding, least=0)
    refuse_number_by_number(parts, layout)
    placements: list[Placement] = []
    for exact in (False, True):
        stream = [part for part in parts if part.start.exact is exact]
        if not stream:
            continue
        total = sum(math.prod(part.shape) for part in stream)
        used, common = min(size, total), common_std(stream)
        pieces, start = [], 0
        for part in stream:
            scale, shift = scale_and_shift(part, common, stream)
            index = first_head + len(placements)
            pieces.append((part, whole_piece(index, start, part, scale, shift)))
            start += math.prod(part.shape)
        head = Head(
            name,
            Source.FEATURES,
            math.ceil(total / used),
            used,
            total,
            embedding,
            per_condition,
            needs_scales(stream),
            signs,
            (Segment(0, used, 0.0, common),),
        )
        placements.append(Placement(head, tuple(pieces)))
    return placements


def refuse_number_by_number(parts: Sequence[Part], layout: Layout) -> None:
    """Raise if each number of a part has a start of its own, which shared rows cannot hold."""
    for part in parts:
        if part.start.number_by_number:
            init = "BiasHyperInit()" if part.start.native else "Orthogonal()"
            raise ValueError(
                message(
                    "init",
                    f"{init} for {part.tensor!r}, which {layout} generates",
                    "a layout with a row for every number (Full)",
                    "With form=Delta(trained=True) every layout starts as the target.",
                )
            )
