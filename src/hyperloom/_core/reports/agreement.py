"""Whether two runs that are to give the same do: beyond rounding, the same in every backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hyperloom._core.reports.readings import Disagreement

LOOP = "one condition after the other"
AGAIN = "a second call"

# Rounding adds up over a deep target: this many times the tolerance of a number, at most so much.
_TIMES_TOLERANCE = 500.0
_MOST = 0.1
# A gradient that is small beside the largest one may be what is left of large terms.
_SMALL = 1e-3


def outputs_disagree(
    than: str, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], tolerance: float
) -> tuple[Disagreement, ...]:
    """Compare the outputs of two runs.

    Args:
        than: What the first is compared with, in words.
        ours: Its outputs.
        theirs: Those that are right.
        tolerance: Relative difference up to which two numbers count as the same.

    Returns:
        One disagreement, or none.
    """
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        return (Disagreement(than, "outputs", (), math.inf),)
    by = max((_difference(a, b, 0.0) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    return (Disagreement(than, "outputs", (), by),) if by > _bound(tolerance) else ()


def gradients_disagree(
    than: str,
    ours: Mapping[str, np.ndarray | None],
    theirs: Mapping[str, np.ndarray | None],
    tolerance: float,
) -> tuple[Disagreement, ...]:
    """Compare the gradients of every parameter; one that is missing counts as zero.

    Arguments and return value are as of `outputs_disagree`.
    """
    sizes = [_size(value) for value in theirs.values() if value is not None]
    floor = _SMALL * max(sizes, default=0.0)
    by = {name: _of_pair(value, theirs[name], floor) for name, value in ours.items()}
    far = {name: value for name, value in by.items() if value > _bound(tolerance)}
    return (Disagreement(than, "gradients", tuple(far), max(far.values())),) if far else ()


def _bound(tolerance: float) -> float:
    return min(_MOST, _TIMES_TOLERANCE * tolerance)


def _of_pair(a: np.ndarray | None, b: np.ndarray | None, floor: float) -> float:
    if a is None and b is None:
        return 0.0
    one = np.zeros_like(b) if a is None else a
    two = np.zeros_like(one) if b is None else b
    return _difference(one, two, floor)


def _difference(a: np.ndarray, b: np.ndarray, floor: float) -> float:
    """Return how far `a` is from `b`, relative to `b`, or to `floor` if that is larger.

    It is infinite where one of both is not finite, and what is not finite in both is left out.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(b)
    if (np.isfinite(a) != finite).any():
        return math.inf
    change, size = _size(a[finite] - b[finite]), max(_size(b[finite]), floor)
    return 0.0 if change == 0.0 else (change / size if size > 0 else math.inf)


def _size(value: np.ndarray) -> float:
    """Return the root mean square of the numbers that are finite."""
    wide = value.astype(np.float64)
    wide = wide[np.isfinite(wide)]
    return float(np.sqrt(np.square(wide).mean())) if wide.size else 0.0
