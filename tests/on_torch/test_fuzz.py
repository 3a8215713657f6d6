"""Random targets, choices and calls: the batch is the loop, and what is generated the oracle's."""

from __future__ import annotations

import pytest
import torch

from hyperloom.torch._weights import weights
from tests.on_torch.fuzz import Case

FEW, MANY, GROUP = 240, 4_000, 20


def check(first: int) -> None:
    for seed in range(first, first + GROUP):
        Case(seed).check()


@pytest.mark.parametrize("first", range(0, FEW, GROUP))
def test_a_batch_is_the_loop(first: int) -> None:
    check(first)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FEW, MANY, GROUP))
def test_many_batches_are_the_loop(first: int) -> None:
    check(first)


def test_a_fault_is_seen_and_told_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = weights.Dense.dense
    monkeypatch.setattr(weights.Dense, "dense", lambda self: torch.flip(dense(self), (0,)))
    with pytest.raises(AssertionError, match=r"Case\(seed=\d+\)\.check\(\)"):
        check(0)
