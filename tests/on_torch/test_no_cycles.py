"""No reference cycle of ours holds a tensor: what a call has generated is freed as it ends."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl

X, IDS = torch.randn(3, 5, 8), [0, 2, 1]


class Own(nn.Module):
    """A target with a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


CALLS: dict[str, Callable[[hl.HyperNetwork], Any]] = {
    "batch": lambda h: h(X, condition=IDS),
    "two dimensions": lambda h: h(X.expand(2, 3, 5, 8), condition=torch.tensor([IDS, IDS])),
    "one": lambda h: h(X[0], condition=1),
    "trained": lambda h: h(X, condition=IDS).sum().backward(),
    "generate": lambda h: h.generate(IDS),
    "run": lambda h: h.run(h.generate(IDS), X),
    "instantiate": lambda h: h.instantiate(1),
    "explain": lambda h: h.explain(X, condition=IDS),
}


def tensors() -> int:
    return sum(isinstance(thing, Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "execution",
    [
        hl.Execution(),
        hl.Execution(strategy="vmap"),
        hl.Execution(strategy="loop"),
        hl.Execution(max_memory=1),
        hl.Execution(recompute=True),
        hl.Execution(strategy="loop", max_memory=1, recompute=True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("target", [chain, Own], ids=["chain", "own"])
def test_nothing_is_left(target: Any, execution: hl.Execution, call: str) -> None:
    hnet = hl.HyperNetwork(
        target(), condition=hl.Embedding(3, 4), layout=hl.Chunked(30, embedding=2)
    )
    hnet.execution = execution
    CALLS[call](hnet)  # what is remembered is made now
    CALLS[call](hnet)
    gc.collect()
    gc.freeze()  # what is there already need not be looked through, now and later
    gc.disable()
    try:
        CALLS[call](hnet)
        assert tensors() == 0
    finally:
        gc.enable()
