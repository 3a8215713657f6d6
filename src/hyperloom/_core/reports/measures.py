"""What `doctor()` computes from arrays and from a plan, the same in every backend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hyperloom._core.choices.structure import Plain
from hyperloom._core.plan.plan import Entry, Plan
from hyperloom._core.records import Head
from hyperloom._core.reports.readings import TensorReading

Numbers = Sequence[np.ndarray]
Stages = tuple[tuple[str, float | None], ...]


def told(what: str, error: Exception) -> str:
    """Return what an error of the user's own modules says, in a line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{what}: {type(error).__name__}: {lines[0]}"


def rms(value: np.ndarray) -> float:
    """Return the root mean square of an array's numbers, NaN if one of them is."""
    return float(np.sqrt(np.square(value.astype(np.float64)).mean())) if value.size else 0.0


def difference(one: Numbers, two: Numbers) -> float | None:
    """Return the root mean square of the differences, relative to that of the numbers."""
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(one, two, strict=True)]
    squares = sum(float(np.square(a - b).sum()) for a, b in pairs)
    size = sum(float(np.square(a).sum() + np.square(b).sum()) for a, b in pairs) / 2
    return math.sqrt(squares / size) if size > 0 else (0.0 if pairs else None)


def collapsed(rows: np.ndarray, axis: int) -> bool:
    """Whether rows along an axis, which should differ, are all the same."""
    rows = rows.astype(np.float64)
    if rows.shape[axis] < 2:
        return False
    spread = np.sqrt(np.square(rows - rows.mean(axis, keepdims=True)).mean())
    return bool(spread <= 1e-4 * np.sqrt(np.square(rows).mean()))


def starts(plan: Plan, name: str, ndim: int) -> tuple[bool, bool]:
    """Say where a parameter of the generator starts.

    Args:
        plan: The plan.
        name: Its name in a checkpoint, a number behind it for each block of a table.
        ndim: Number of its axes.

    Returns:
        Whether the plan starts its numbers at random, and whether it starts some at zero.
    """
    zero = {h.name for h in plan.heads if any(s.std == 0.0 for s in h.segments)}
    random_rows = {h.name for h in plan.heads if any(s.std > 0.0 for s in h.segments)}
    path, _, key = name.rpartition(".")
    head = path.removeprefix("heads.").removesuffix(".table") if "heads." in path else ""
    matrix = ndim >= 2 and name.startswith(("trunks.", "condition."))
    at_random = matrix or (head in random_rows and key in ("weight", "0", "row"))
    return at_random, head in zero and not key.startswith("slots") and ".slots" not in path


def starts_constant(plan: Plan, entry: Entry) -> bool:
    """Whether the plan starts a tensor alike for all conditions."""
    zero = [_std_is_zero(plan.heads[p.head], p.start, p.span) for p in entry.pieces]
    return all(zero) if plan.structures[entry.tensor] == Plain() else any(zero)


def _std_is_zero(head: Head, start: int, numel: int) -> bool:
    first = start % head.slot_size
    last = first + numel
    rows = [
        s for s in head.segments if last > head.slot_size or (s.start < last and first < s.stop)
    ]
    return all(s.std == 0.0 for s in rows)


def read_tensor(
    plan: Plan,
    entry: Entry,
    value: np.ndarray,
    other: np.ndarray | None,
    base: np.ndarray | None,
) -> TensorReading:
    """Read a generated tensor; its gradient comes later.

    Args:
        plan: The plan.
        entry: Of the tensor.
        value: The tensor, `(*batch, *shape)`.
        other: The same for other conditions; `None` where there are none.
        base: What its form changes, if it changes something.
    """
    spec = plan.spec[entry.tensor]
    return TensorReading(
        name=entry.tensor,
        rms=rms(value),
        native=rms(base) if base is not None else math.hypot(spec.mean, spec.std),
        native_std=spec.std if base is None else rms(base - base.astype(np.float64).mean()),
        varies=None if other is None else difference([value], [other]),
        shared=entry.tensor in plan.constants,
        starts_constant=starts_constant(plan, entry),
        change=None if base is None else rms(value - base.astype(value.dtype)),
        attached=True,
        gradient=None,
    )


def differences(
    plan: Plan,
    vectors: tuple[Numbers, Numbers],
    features: tuple[Numbers, Numbers],
    tensors: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
    outputs: tuple[Numbers, Numbers],
) -> Stages:
    """Return how much each stage differs between one half of a pair and the other.

    The first two matter only where features are used: a table by id has none.
    """
    names = [e.tensor for e in plan.entries if e.tensor not in plan.constants]
    halves = [[half[name] for name in names] for half in tensors]
    return (
        ("condition vectors", difference(*vectors) if plan.widths else None),
        ("features", difference(*features) if plan.widths else None),
        ("generated tensors", difference(halves[0], halves[1])),
        ("outputs", difference(*outputs)),
    )
