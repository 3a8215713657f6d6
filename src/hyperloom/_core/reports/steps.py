"""How far a step of an optimiser moves tensors: relative sizes, the same in every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hyperloom._core.reports.measures import rms
from hyperloom._core.reports.readings import TensorReading

# For each tensor, how far its numbers moved, and how they were spread before: root mean squares.
Moved = Mapping[str, tuple[float, float]]


def moved(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Return how far an array's numbers moved, and how they were spread before."""
    old = before.astype(np.float64)
    return rms(after.astype(np.float64) - old), rms(old - old.mean())


def with_steps(
    tensors: tuple[TensorReading, ...], ours: Moved, plain: Moved
) -> tuple[TensorReading, ...]:
    """Return the readings with the effect of a step.

    Args:
        tensors: Readings of the generated tensors.
        ours: How far the step moved them.
        plain: How far it moved those of a plain network.
    """
    return tuple(
        replace(t, step=_relative(ours[t.name], t), native_step=_relative(plain[t.name], t))
        for t in tensors
    )


def _relative(moved: tuple[float, float], reading: TensorReading) -> float | None:
    """Return a change relative to the spread; `None` for a tensor that starts as a constant."""
    change, spread = moved
    return change / max(spread, reading.native_std) if reading.native_std > 0 else None


def grows(once: float, twice: float) -> bool:
    """Whether a step grows with the gradient.

    Args:
        once: How far the parameters move.
        twice: The same for a gradient of twice the size.
    """
    return twice > 1.5 * once
