"""A comparison that cannot fail proves nothing: each kind of difference is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests._support.compare import close

ONE = torch.tensor([1.0, 2.0], dtype=torch.float64)
SAME: list[tuple[Any, Any]] = [
    (ONE, ONE + 1e-10),
    ({"a": ONE, "b": [1, (2.0,)]}, {"b": [1, (2.0,)], "a": ONE}),
    (ONE.numpy(), ONE),
    (ONE.bfloat16(), ONE.bfloat16()),
    ([], []),
    (torch.empty(0, 3), torch.empty(0, 3)),
    (True, True),
]
OTHER: list[tuple[Any, Any]] = [
    (ONE, ONE + 1e-8),
    (ONE, ONE.float()),
    (ONE, ONE[:1]),
    (ONE, ONE[None]),
    (ONE, torch.tensor([1.0, float("nan")], dtype=torch.float64)),
    (torch.full((2,), float("nan")), torch.full((2,), float("nan"))),
    ({"a": ONE}, {"b": ONE}),
    ({"a": ONE}, {"a": ONE, "b": ONE}),
    ([ONE], [ONE, ONE]),
    ([], [ONE]),
    ([ONE], []),
    ([ONE, [ONE]], [ONE, ONE]),
    (ONE, None),
    (1, 2),
]


@pytest.mark.parametrize("pair", SAME, ids=str)
def test_what_is_the_same_is_the_same(pair: tuple[Any, Any]) -> None:
    close(*pair)


@pytest.mark.parametrize("pair", OTHER, ids=str)
def test_every_difference_is_seen(pair: tuple[Any, Any]) -> None:
    for actual, expected in (pair, pair[::-1]):
        with pytest.raises((AssertionError, ValueError, TypeError)):
            close(actual, expected)


def test_scaled_and_nan() -> None:
    large = np.array([1e6, 0.0])
    close(large + np.array([0.0, 1e-4]), large, scaled=True)
    with pytest.raises(AssertionError):
        close(large + np.array([0.0, 1e-2]), large, scaled=True)
    close(np.array([np.nan]), np.array([np.nan]), equal_nan=True)
    with pytest.raises(AssertionError):
        close(np.array([np.inf, 0.0]), np.array([np.inf, 1.0]), scaled=True)
