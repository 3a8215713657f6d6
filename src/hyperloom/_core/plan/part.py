"""The part of a plan that makes some of its tensors: a smaller plan over the same numbers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from hyperloom._core.pieces import Piece
from hyperloom._core.plan.plan import Plan
from hyperloom._core.records import Head

Range = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """A plan for some tensors, and what its heads take of those of the whole plan.

    A head with slot embeddings is run on the slots that are needed; of any other, the rows that are
    needed are taken.

    Attributes:
        plan: The plan of the part.
        ranges: For each of its heads the slots, or rows, that it takes: (first, one past the last),
            in order.
        pieces: For each of its pieces the row that it has in the whole plan's.
        trunks: For each of its trunks the place that it has among the whole plan's.
    """

    plan: Plan
    ranges: tuple[tuple[Range, ...], ...]
    pieces: tuple[int, ...]
    trunks: tuple[int, ...]


def part_of(plan: Plan, names: frozenset[str], slots: bool) -> Part:
    """Return the part of a plan that makes the tensors named.

    Args:
        plan: The whole plan.
        names: Names of generated tensors.
        slots: Whether a trunk gives each slot what it would without the others, so that some may
            be left out.
    """
    entries = [entry for entry in plan.entries if entry.tensor in names]
    pieces = [piece for entry in entries for piece in entry.pieces]
    in_use = sorted({piece.head for piece in pieces})
    heads, ranges, moved = [], [], {}
    for place, index in enumerate(in_use):
        mine = [piece for piece in pieces if piece.head == index]
        head, taken = _reduced(plan.heads[index], mine, slots)
        unit = _unit(head)
        heads.append(head)
        ranges.append(taken)
        moved |= {piece: _moved(piece, place, taken, unit) for piece in mine}
    entries = [replace(e, pieces=tuple(moved[piece] for piece in e.pieces)) for e in entries]
    part = replace(plan, heads=tuple(heads), entries=tuple(entries)).fill_caches()
    rows = [row for name in part.rows_by_name for row in plan.rows_by_name[name][1]]
    trunks = tuple(plan.widths.index(width) for width in part.widths)
    return Part(part, tuple(ranges), tuple(rows), trunks)


def _unit(head: Head) -> int:
    """Return how many numbers belong together: those of a slot, or of a row."""
    return head.slot_size if head.embedding else 1


def _reduced(head: Head, pieces: Collection[Piece], slots: bool) -> tuple[Head, tuple[Range, ...]]:
    """Return a head of what the pieces need, and which slots or rows that is."""
    unit, taken = _unit(head), list[Range]()
    for piece in sorted(pieces, key=lambda piece: piece.start):
        first, stop = piece.start // unit, -(-(piece.start + piece.span) // unit)
        if taken and first <= taken[-1][1]:
            first, stop = taken[-1][0], max(stop, taken.pop()[1])
        taken.append((first, stop))
    every = head.num_slots if head.embedding else head.slot_size
    if (head.given and not head.embedding) or (head.embedding and not slots):
        taken = [(0, every)]
    size = sum(stop - first for first, stop in taken)
    num_used = sum(piece.span for piece in pieces)
    sizes = {"num_slots": size} if head.embedding else {"slot_size": size}
    return replace(head, num_used=num_used, segments=(), **sizes), tuple(taken)


def _moved(piece: Piece, head: int, taken: tuple[Range, ...], unit: int) -> Piece:
    """Return a piece with its place in the head of the part."""
    before, place = 0, piece.start // unit
    for first, stop in taken:
        if first <= place < stop:
            return replace(piece, head=head, start=piece.start + (before - first) * unit)
        before += stop - first
    raise AssertionError(piece)
