"""Which rows of a batch belong to which condition: arithmetic on indices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hyperloom._core.errors import message


def check_rows(index: np.ndarray, num_conditions: int) -> None:
    """Raise unless `index` says of each row which of the conditions it has.

    Args:
        index: `(R,)`.
        num_conditions: How many there are.

    Raises:
        TypeError: No integers.
        ValueError: Another number of axes, or no rows.
        IndexError: A number that is not the place of a condition.
    """
    wanted = f"integers (R,), each in 0 .. {num_conditions - 1}: the condition of each row"
    if not index.size:
        raise ValueError(message("rows", "no rows", wanted))
    if index.dtype.kind not in "iu":
        raise TypeError(message("rows", f"an array of {index.dtype}", wanted))
    if index.ndim != 1:
        raise ValueError(message("rows", f"shape {index.shape}", wanted))
    wrong = index[(index < 0) | (index >= num_conditions)]
    if len(wrong):
        raise IndexError(message("rows", f"the condition {wrong[0]}", wanted))


def groups_of_equal_counts(index: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield conditions `(K,)` that have equally many rows, and where these are, `(K, N)`.

    The rows of a condition keep their order. A condition without rows is left out.

    Args:
        index: The condition of each row, `(R,)`.
    """
    conditions, counts = np.unique(index, return_counts=True)
    order = np.argsort(index, kind="stable")
    ends = np.cumsum(counts)
    for count in np.unique(counts):
        chosen = np.flatnonzero(counts == count)
        places = (ends[chosen] - count)[:, None] + np.arange(count)
        yield conditions[chosen], order[places]
