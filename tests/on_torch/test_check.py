"""The first call of each kind is held against one condition run alone."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap
from torch.utils.checkpoint import checkpoint

import hyperloom.torch as hl
from hyperloom.torch._target.private import inside_transform
from tests._support.on_torch import hypernetwork
from tests.on_torch.test_batch_equals_loop import close

IDS = [2, 0, 1]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)


class SeesRowByRow(Layer):
    """Does something else inside `vmap`: what nobody has thought of. Can be run on rows."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return 1.01 * y if inside_transform() else y


class Sees(SeesRowByRow):
    """The same, and its rows meet."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y - y.mean(0)


class SeesDtype(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x).cumsum(0)
        return y.float() if inside_transform() else y


class SeesStructure(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.layer(x).cumsum(0)
        return (y, y) if inside_transform() else y


class SeesNumber(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.layer(x).cumsum(0), 1 if inside_transform() else 2


class Drops(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x), 0.5, self.training)


class Counts(Layer):
    """Leaves traces wherever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1  # type: ignore[operator]
        self.seen.append(1)
        return self.layer(x.relu_())


class Rounds(Layer):
    """Its output is what rounding leaves."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return (y + 1e6) - 1e6 - y


def of_kind(target: Callable[[], nn.Module], dtype: Any = torch.float64) -> hl.HyperNetwork:
    return hypernetwork(lambda: target().to(dtype), condition=hl.Embedding(3, 6))


def inputs(dtype: Any = torch.float64) -> Tensor:
    return torch.randn(3, 5, 4, dtype=dtype)


def looped(hnet: hl.HyperNetwork, x: Tensor) -> Any:
    return [hnet(x[i], condition=c) for i, c in enumerate(IDS)]


@pytest.mark.parametrize("grad", [True, False])
def test_what_differs_is_run_one_after_the_other(grad: bool) -> None:
    hnet, x = of_kind(Sees), inputs()
    with torch.set_grad_enabled(grad):
        with pytest.warns(hl.SlowWarning, match=r"Sees: at once, its results are off by 0\.01"):
            y = hnet(x, condition=IDS)
        close(y, torch.stack(looped(hnet, x)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            close(hnet(x, condition=IDS), y)  # and remembered
        told = hnet.explain(x, condition=IDS)
    assert told.strategy == "loop"
    assert "off by" in told.reason


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (SeesDtype, r"it returns torch\.float32 \(5, 3\), alone torch\.float64"),
        (SeesStructure, "at once it returns another structure"),
        (SeesNumber, "at once it returns 1, alone 2"),
    ],
)
def test_kinds_and_structure_are_compared(target: Callable[[], nn.Module], why: str) -> None:
    hnet, x = of_kind(target), inputs()
    with pytest.warns(hl.SlowWarning, match=why):
        y = hnet(x, condition=IDS)
    wanted = looped(hnet, x)
    if isinstance(y, tuple):
        close(y[0], torch.stack([w[0] for w in wanted]))
        assert y[1] == 2
    else:
        close(y, torch.stack(wanted))


def test_it_can_be_switched_off() -> None:
    hnet, x = of_kind(Sees), inputs()
    hnet.execution = hl.Execution(check=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(hnet(x, condition=IDS), 1.01 * torch.stack(looped(hnet, x)))


def test_each_kind_is_checked() -> None:
    hnet, x = of_kind(Sees), inputs()
    for mode in (True, False):
        hnet.train(mode)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", hl.SlowWarning)
            close(hnet(x, condition=IDS), torch.stack(looped(hnet, x)))


def test_what_differs_is_run_on_rows_where_that_is_exact() -> None:
    hnet, x = of_kind(SeesRowByRow), inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(hnet(x, condition=IDS), torch.stack(looped(hnet, x)))
    told = hnet.explain(x, condition=IDS)
    assert told.strategy == "rows"
    assert "off by 0.01" in told.reason


def test_a_call_inside_a_transform_is_checked_when_it_can_be() -> None:
    hnet, x = of_kind(Sees), inputs()
    vmap(lambda shift: hnet(x + shift, condition=IDS))(torch.zeros(2, 1).double())
    with pytest.warns(hl.SlowWarning, match="off by"):
        close(hnet(x, condition=IDS), torch.stack(looped(hnet, x)))


def states() -> list[Any]:
    return [
        random.getstate(),
        str(np.random.get_state()),
        torch.get_rng_state().tolist(),
    ]


def test_draws_are_made_once_and_are_not_compared() -> None:
    ends = []
    for check in (True, False):
        hnet, x = of_kind(Drops), inputs()
        hnet.execution = hl.Execution(check=check)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ends.append([hnet(x, condition=IDS), states()])
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_it_leaves_no_trace() -> None:
    ends = []
    for check in (True, False):
        hnet, x = of_kind(Counts), inputs()
        hnet.execution = hl.Execution(check=check)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", hl.SlowWarning)
            y = hnet(x, condition=IDS)
        module: Any = hnet._runner.skeleton.module
        ends.append((y, x, len(module.seen), float(hnet.target_buffers.get_buffer("calls"))))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2:] == ends[1][2:]


def test_rounding_is_no_difference() -> None:
    hnet, x = of_kind(Rounds, torch.float32), inputs(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hnet(x, condition=IDS)


def test_a_checkpoint_around_the_call_sees_one_run() -> None:
    found = []
    for recompute in (False, True):
        hnet, x = of_kind(lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1))), inputs()
        run = lambda x, hnet=hnet: hnet(x, condition=IDS)  # noqa: E731
        y = checkpoint(run, x, use_reentrant=False) if recompute else run(x)
        assert isinstance(y, Tensor)
        found.append(torch.autograd.grad(y.square().sum(), list(hnet.parameters())))
    for a, b in zip(*found, strict=True):
        close(a, b)
