"""Nothing to run on: no rows, no conditions. Shapes are as PyTorch's own layers give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import hyperloom.torch as hl
from tests._support.compare import close
from tests.on_torch.small import IDS, Layer, X, of_ids

STRATEGIES = ("auto", "vmap", "rows", "loop")


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x)) * x


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))


def image() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 3, 2), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten(), nn.Linear(15, 2)
    ).eval()


def words() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)


TARGETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    # the target, and the shapes of an input and an output without rows
    "chain": (chain, (4,), (2,)),
    "gated": (Gated, (4,), (4,)),
    "image": (image, (4, 6), (2,)),
    "words": (words, (3,), (3, 2)),
    "encoder": (encoder, (5, 4), (5, 4)),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("choices", [{}, {"layout": hl.PerCondition()}], ids=["full", "table"])
@pytest.mark.parametrize("name", TARGETS)
def test_no_rows_and_no_conditions(name: str, choices: dict[str, Any], strategy: str) -> None:
    make, shape, shape_out = TARGETS[name]
    hnet = of_ids(make, execution=hl.Execution(strategy=strategy), **choices)
    hnet.train(name != "image")
    sizes = [(0, 5), (0, 0), (3, 0)]
    if (name, strategy) == ("encoder", "rows"):  # attention has no rule for rows that are none
        sizes.pop()
    for num, rows in sizes:
        x = torch.zeros(num, rows, *shape, dtype=torch.int64 if name == "words" else torch.float64)
        y = hnet(x, condition=list(range(num)))
        assert y.shape == (num, rows, *shape_out)
        assert y.dtype == torch.float64
        y.sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in hnet.parameters())


@pytest.mark.parametrize("way", ["dense", "inputs", "outputs"])
def test_no_rows_by_each_way_of_a_layer(way: str, take: Callable[[str], None]) -> None:
    take(way)
    for make in (chain, Gated):
        hnet = of_ids(make, hl.Vector(3))
        for shape in ((3, 0), (3, 2, 0), (3, 0, 2)):
            y = hnet(
                torch.zeros(*shape, 4, dtype=torch.float64), condition=torch.ones(3, 3).double()
            )
            assert y.shape[:-1] == shape
            y.sum().backward()


def test_no_rows_do_not_decide_how_others_are_run() -> None:
    hnet = of_ids(Gated, layout={"layer.weight": hl.Full()}, form=hl.LoRA(1))
    assert hnet(X[:, :0], condition=IDS).shape == (3, 0, 4)
    each = [hnet(x, condition=i) for x, i in zip(X, IDS, strict=True)]
    close(hnet(X, condition=IDS), torch.stack(each))


def test_no_conditions_leave_no_trace() -> None:
    class Counts(Layer):
        calls: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.seen = 0

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str, object]:
            self.calls.add_(1)
            self.seen += 1
            return self.layer(x) * torch.rand(()), "said", object()

    hnet = of_ids(Counts)
    state = torch.get_rng_state()
    for batch in ((0,), (0, 2), (2, 0)):
        ids = torch.zeros(batch, dtype=torch.int64)
        y, said, objects = hnet(torch.zeros(*batch, 5, 4, dtype=torch.float64), condition=ids)
        assert (y.shape, said, objects) == ((*batch, 5, 3), "said", [])
    assert hnet.target_buffers.get_buffer("calls") == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert hnet.explain(X[:0], condition=[]).strategy == "none"
    assert hnet.run(hnet.generate([]), X[:0])[0].shape == (0, 5, 3)
