"""Random targets, choices and calls: the batch is the loop, and what is generated the oracle's."""

from __future__ import annotations

import pytest

from tests.on_jax.fuzz import Case

FEW, MANY, GROUP = 2, 400, 2


def check(first: int) -> None:
    for seed in range(first, first + GROUP):
        Case(seed).check()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("first", range(0, FEW, GROUP))
def test_a_batch_is_the_loop(first: int) -> None:
    check(first)


@pytest.mark.slow
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("first", range(FEW, MANY, GROUP))
def test_many_batches_are_the_loop(first: int) -> None:
    check(first)
