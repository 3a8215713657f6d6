"""Heads whose slots' embeddings say what the slots are: what there is to tell, and to look up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hyperloom._core.choices.layouts.base import Layout
from hyperloom._core.choices.slot_parts import Slot, SlotEmbedding
from hyperloom._core.errors import message
from hyperloom._core.pieces import Placement


def told_apart(
    layout: Layout, embedding: int | SlotEmbedding, placements: list[Placement]
) -> list[Placement]:
    """Give heads the embeddings that say what their slots are, where such are chosen.

    Raises:
        ValueError: Two slots of one head of which the embeddings say the same.
    """
    if not isinstance(embedding, SlotEmbedding):
        return placements
    slots = [slots_of(placement) for placement in placements]
    lookups = embedding.lookups([slot for of_head in slots for slot in of_head])
    told, first = [], 0
    for placement, of_head in zip(placements, slots, strict=True):
        stop = first + len(of_head)
        parts = tuple(replace(part, rows=part.rows[first:stop]) for part in lookups)
        _refuse_equal(layout, of_head, list(zip(*(part.rows for part in parts), strict=True)))
        head = replace(placement.head, lookups=parts, summed=embedding.summed)
        told.append(replace(placement, head=head))
        first = stop
    return told


def slots_of(placement: Placement) -> list[Slot]:
    """Return what there is to tell of each slot of a head: of the part of its first number."""
    size, pieces = placement.head.slot_size, sorted(placement.pieces, key=lambda p: p[1].start)
    slots, place = list[Slot](), 0
    for slot in range(placement.head.num_slots):
        while place + 1 < len(pieces) and pieces[place + 1][1].start <= slot * size:
            place += 1
        part, piece = pieces[place]
        slots.append(Slot(part, slot - -(-piece.start // size)))
    return slots


def _refuse_equal(layout: Layout, slots: Sequence[Slot], told: Sequence[tuple[int, ...]]) -> None:
    """Raise if embeddings say the same of two slots, which would give the same numbers."""
    first_of: dict[tuple[int, ...], Slot] = {}
    for slot, rows in zip(slots, told, strict=True):
        other = first_of.setdefault(rows, slot)
        if other is not slot:
            got = f"{layout}, which says the same of block {other.block} of {other.part.tensor!r}"
            got += f" and of block {slot.block} of {slot.part.tensor!r}"
            wanted = "embeddings that tell the slots of a head apart"
            way_out = "Sum more parts: SlotSum(width, OfLayer(), OfModule(), OfRole(), OfBlock())."
            raise ValueError(message("layout", got, wanted, way_out))
