"""Walks over a plan that both backends take: what is used of the target, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from hyperloom._core.choices.trunks import CustomTrunk
from hyperloom._core.errors import message
from hyperloom._core.plan.plan import Entry, Plan

Array = TypeVar("Array")


def values_used(plan: Plan) -> list[str]:
    """Return the names of the target's tensors whose values are used, not only their shapes."""
    used = [entry.tensor for entry in plan.entries if entry.form.has_base] + list(plan.kept)
    return used + [s.native for head in plan.heads for s in head.segments if s.native]


def starts_of_later_ids(plan: Plan) -> list[str]:
    """Return the names of the tensors from whose values the rows of later ids start."""
    tables = [head for head in plan.heads if head.table]
    return [s.native for head in tables for s in head.segments if s.native]


def needs_moments(plan: Plan) -> bool:
    """Whether anything is asked of a trunk on sample conditions before the first call.

    That is how large its features are, where a start depends on it, and whether a module of the
    user's own runs at all.
    """
    return isinstance(plan.trunk, CustomTrunk) or any(head.needs_moment for head in plan.heads)


SLOT_TABLES = "slot_tables"  # the name, among the heads, of the tables that say what slots are
SAMPLE_ELEMENTS = 8  # in a sample context; the data decides how many real ones have


def num_samples(plan: Plan) -> int:
    """Return on how many conditions features are measured; few where slots meet in pairs."""
    most = 16 if plan.trunk_over_slots else 256
    return min(plan.condition.num_ids or most, most)


def refuse_trunk(plan: Plan, rows: int, error: Exception) -> NoReturn:
    """Raise for a trunk that fails on `rows` sample conditions with `error`."""
    trunk = plan.trunk
    if not isinstance(trunk, CustomTrunk):
        raise error
    got = f"a {trunk.name} that fails on {rows} rows ({error})"
    width = plan.condition.width + plan.widths[0]
    wanted = f"a module (rows, {width}) -> (rows, {trunk.width})"
    if trunk.over_slots:
        got = f"a {trunk.name} over slots that fails ({error})"
        context = plan.condition.context_width
        more = f", (B, L, {context}), and a mask (B, L) or None" if context else ""
        wanted = f"a module (B, C, {width}){more} -> (B, C, {trunk.width})"
    raise ValueError(message("trunk", got, wanted)) from error


def base_of(entry: Entry, bases: Mapping[str, Array]) -> Array | None:
    """Return the tensor that the entry's form changes, if it changes one."""
    return bases[entry.tensor] if entry.form.has_base else None


def bank_of(entry: Entry, banks: Sequence[Array]) -> Array | None:
    """Return the bank that the entry's form combines, if it combines one."""
    return None if entry.bank is None else banks[entry.bank]


def join(
    plan: Plan, parts: Sequence[Any], bases: Mapping[str, Any], banks: Sequence[Any]
) -> dict[str, Any]:
    """Form every tensor from its parts: `{name: (*batch, *shape)}`, in the dtype of the parts.

    Args:
        plan: The plan.
        parts: `(*batch, *part shape)`, in the order of `plan.pieces`.
        bases: The tensors that forms with a base change.
        banks: The plan's banks.
    """
    row, tensors = 0, {}
    for entry in plan.entries:
        structure, stop = plan.structures[entry.tensor], row + len(entry.pieces)
        parts_of_tensor = tuple(parts[row:stop])
        if structure.plus:
            parts_of_tensor = tuple([part + structure.plus for part in parts_of_tensor])
        base, bank = base_of(entry, bases), bank_of(entry, banks)
        tensors[entry.tensor] = structure.dense(
            parts_of_tensor, base, bank, plan.spec[entry.tensor].shape
        )
        row = stop
    return tensors
