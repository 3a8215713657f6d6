"""What `doctor()` computes of two runs, and of a step: plain NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hyperloom._core.reports.agreement import gradients_disagree, outputs_disagree
from hyperloom._core.reports.steps import grows, moved

ONES = np.ones((3, 2), np.float32)
TOLERANCE = 16 * float(np.finfo(np.float32).eps)


@pytest.mark.parametrize(
    ("ours", "by"),
    [
        ([1.5 * ONES], 0.5),
        ([np.ones((3, 1), np.float32)], math.inf),  # another shape
        ([ONES, ONES], math.inf),  # another number of outputs
        ([np.where(np.eye(3, 2) > 0, np.nan, ONES)], math.inf),
    ],
)
def test_outputs_that_differ(ours: list[np.ndarray], by: float) -> None:
    (found,) = outputs_disagree("a loop", ours, [ONES], TOLERANCE)
    assert (found.than, found.what, found.where) == ("a loop", "outputs", ())
    assert found.by == pytest.approx(by)


def test_rounding_and_numbers_that_are_not_finite_in_both_are_no_difference() -> None:
    nan = np.where(np.eye(3, 2) > 0, np.nan, ONES)
    pairs = [(ONES, ONES * (1 + 1e-5)), (nan, nan), (0 * ONES, 0 * ONES), (ONES[:0], ONES[:0])]
    for ours, theirs in pairs:
        assert not outputs_disagree("a loop", [ours], [theirs], TOLERANCE)


def test_gradients_are_named_and_what_is_left_of_large_ones_is_rounding() -> None:
    right = {"a": ONES, "b": ONES, "c": None, "d": 1e-8 * ONES}
    ours = {"a": 2 * ONES, "b": ONES, "c": None, "d": -1e-8 * ONES}
    (found,) = gradients_disagree("a loop", ours, right, TOLERANCE)
    assert (found.where, found.by) == (("a",), pytest.approx(1.0))
    (found,) = gradients_disagree("a loop", {**right, "b": None}, right, TOLERANCE)
    assert found.where == ("b",)
    assert not gradients_disagree("a loop", {**right, "c": 0 * ONES}, right, TOLERANCE)


def test_how_far_a_step_moves() -> None:
    before = np.array([1.0, 3.0], np.float32)
    assert moved(before, before + np.float32(0.5)) == (0.5, 1.0)
    assert grows(1.0, 2.0)
    assert not grows(1.0, 1.01)
