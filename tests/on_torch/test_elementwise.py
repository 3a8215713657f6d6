"""Activations of the user's: taken as steps of a chain where their code shows what they do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.torch._run.elementwise import is_elementwise
from hyperloom.torch._weights.weights import linear_hidden
from tests.on_torch.test_batch_equals_loop import close

FLAG = True


class Sine(nn.Module):
    def __init__(self, frequency: Any = 3.0) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        gate = F.softplus(x.clamp(min=-9.0), 2.0) / math.pi
        return x * torch.sigmoid(gate) - torch.abs(-x) ** 2


class Branch(Sine):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x) if self.frequency else x


class Softmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, -1)


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean()


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x, True)


class Written(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin_()


class Keeps(Sine):
    def forward(self, x: Tensor) -> Tensor:
        self.last = torch.sin(x)
        return self.last


class ByMode(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.training


class Shaped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.shape[-1]


class Global(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * FLAG


class Property(nn.Module):
    @property
    def frequency(self) -> float:
        return 2.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


class Called(Sine):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mT


@pytest.mark.parametrize("module", [Sine(), Sine(2), Swish(), nn.ReLU(), nn.GELU()])
def test_activations_that_treat_every_number_alike(module: nn.Module) -> None:
    assert is_elementwise(module)


OTHERS = [
    *(Branch(), Softmax(), Centred(), InPlace(), Written(), Keeps(), ByMode(), Shaped()),
    *(Global(), Property(), Called(), Turned(), Sine(torch.ones(3)), Sine([3.0])),
    *(nn.ReLU(inplace=True), nn.Softmax(-1), nn.PReLU(), nn.RReLU()),
]


@pytest.mark.parametrize("module", OTHERS)
def test_other_modules_are_no_activations(module: nn.Module) -> None:
    assert not is_elementwise(module)


def field(activation: nn.Module) -> hl.HyperNetwork:
    torch.manual_seed(0)
    target = nn.Sequential(nn.Linear(2, 5), activation, nn.Linear(5, 3))
    return hl.HyperNetwork(target, condition=hl.Vector(4)).double()


@pytest.mark.parametrize("activation", [Sine(), Swish()], ids=repr)
@pytest.mark.parametrize("training", [True, False])
def test_a_chain_with_them_gives_what_the_loop_gives(activation: nn.Module, training: bool) -> None:
    hnet = field(activation).train(training)
    c, x = torch.randn(3, 4).double(), torch.randn(3, 6, 2).double()
    assert hnet.explain(x, condition=c).strategy == "chain"
    y = hnet(x, condition=c)
    grads = torch.autograd.grad(y.square().sum(), list(hnet.parameters()))
    hnet.execution = hl.Execution(strategy="loop")
    wanted = hnet(x, condition=c)
    close(y, wanted)
    for got, want in zip(
        grads, torch.autograd.grad(wanted.square().sum(), list(hnet.parameters())), strict=True
    ):
        close(got, want)


def test_an_attribute_that_changes_later_ends_the_chain() -> None:
    hnet = field(Sine())
    c, x = torch.randn(3, 4).double(), torch.randn(3, 6, 2).double()
    before = hnet(x, condition=c)
    skeleton: Any = hnet._runner.skeleton.module
    skeleton[1].frequency = torch.full((5,), 2.0, dtype=torch.float64)
    assert hnet.explain(x, condition=c).strategy == "vmap"
    assert not torch.allclose(hnet(x, condition=c), before)


def test_weights_are_formed_in_one_go_once_every_layer_was_seen_to_form_its_own() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    hnet = hl.HyperNetwork(layer, condition=hl.Vector(4)).double()
    c, x = torch.randn(3, 4).double(), torch.randn(3, 9, 5, 8).double()
    told = str(hnet.explain(x, condition=c))
    outputs = [hnet(x, condition=c) for _ in range(5)]
    (way,) = hnet._runner.memory.routes.values()
    assert way.strategy == "vmap"
    assert not way.from_parts
    assert not way.asking
    assert str(hnet.explain(x, condition=c)) == told
    wanted = hnet(x[:1], condition=c[:1]), hnet(x[1:], condition=c[1:])
    for y in outputs:
        close(y, torch.cat(wanted))


@pytest.mark.parametrize("axes", [(), (4,), (2, 4), (2, 0, 4)], ids=str)
def test_rows_with_several_axes_meet_hidden_matrices(axes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(3, *axes, 5).double(), torch.randn(3, 6, 5).double()
    for bias in (torch.randn(3, 6).double(), None):
        each = (x, w) if bias is None else (x, w, bias)
        got = torch.vmap(linear_hidden)(*each)
        close(got, torch.stack([F.linear(*one) for one in zip(*each, strict=True)]))
        shared = torch.vmap(linear_hidden, in_dims=(None, *(0,) * (len(each) - 1)))
        wanted = [F.linear(x[0], *one) for one in zip(*each[1:], strict=True)]
        close(shared(x[0], *each[1:]), torch.stack(wanted))


def test_a_bias_that_does_not_fit_hidden_matrices_is_refused_as_by_torch() -> None:
    x, w = torch.randn(3, 2, 4, 5), torch.randn(3, 6, 5)
    with pytest.raises(RuntimeError, match="size"):
        torch.vmap(linear_hidden)(x, w, torch.randn(3, 7))
