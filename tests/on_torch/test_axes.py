"""Weights that are stored `(in, out)`: known by the layer's class, or said by the user."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl


class Conv1D(nn.Module):
    """As in transformers: a linear layer `(nx, nf)`."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) * 0.02)
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


class Ours(nn.Module):
    """The same under a name that says nothing."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


LAYERS: list[tuple[type[nn.Module], Any]] = [
    (Conv1D, None),
    (Ours, {"weight": ("in", "out")}),
]


def of(kind: Any, axes: Any, **choices: Any) -> hl.HyperNetwork:
    torch.manual_seed(0)
    return hl.HyperNetwork(kind(6, 3), condition=hl.Embedding(4, 5), axes=axes, **choices)


@pytest.mark.parametrize(("kind", "axes"), LAYERS)
def test_axes_and_fans(kind: Any, axes: Any) -> None:
    spec = of(kind, axes).plan.spec
    weight, bias = spec["weight"], spec["bias"]
    assert (weight.out_axis, weight.in_axis) == (1, 0)
    assert (weight.fan_in, weight.fan_out) == (3, 6)
    assert (bias.fan_in, bias.fan_out) == (3, 6)


@pytest.mark.parametrize(("kind", "axes"), LAYERS)
def test_scale_scales_outputs(kind: Any, axes: Any) -> None:
    hnet = of(kind, axes, layout={"weight": hl.Full()}, form=hl.Scale())
    assert hnet.plan.num_generated == 6
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter.add_(torch.randn_like(parameter))
    base, x = dict(hnet.bases.tensors())["weight"], torch.randn(3, 2, 3)
    for i, y in enumerate(hnet(x, condition=[0, 1, 2])):
        ratios = hnet.generate(i)["weight"] / base
        torch.testing.assert_close(ratios, ratios[:1].expand(3, 6))  # one for each output
        torch.testing.assert_close(y, x[i] @ (base * ratios[0]))


@pytest.mark.parametrize(("kind", "axes"), LAYERS)
def test_the_factor_of_lora_at_the_outputs_starts_at_zero(kind: Any, axes: Any) -> None:
    hnet = of(kind, axes, layout={"weight": hl.Full()}, form=hl.LoRA(2))
    factors = hnet.factors(0)["weight"]  # A (rank, in) and B (out, rank), as PEFT has them
    assert (factors.a.shape, factors.b.shape) == ((2, 3), (6, 2))
    assert bool(factors.a.any())
    assert not factors.b.any()


@pytest.mark.parametrize(("kind", "axes"), LAYERS)
def test_hyperfan_takes_the_inputs(kind: Any, axes: Any) -> None:
    torch.manual_seed(0)
    hnet = hl.HyperNetwork(
        kind(2000, 20), condition=hl.Vector(50), layout=hl.Full(), init=hl.HyperfanIn(), axes=axes
    )
    weight = hnet.generate(torch.randn(20, 50))["weight"].detach()
    plain = hl.HyperNetwork(
        nn.Linear(20, 2000), condition=hl.Vector(50), layout=hl.Full(), init=hl.HyperfanIn()
    )
    wanted = plain.generate(torch.randn(20, 50))["weight"].detach().std()
    assert math.isclose(float(weight.std() / wanted), 1.0, abs_tol=0.2)


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        (("in", "out"), 'axes: got ("in", "out")'),
        ({"weight": "in"}, "axes: got 'weight': 'in'; wanted a tuple"),
        ({"weight": ("rows", "columns")}, "axes: got 'weight': "),
        ({"weight": ("out",)}, "axes: got ('out',) for 'weight' of shape (3, 6); wanted a tuple"),
        ({"weight": ("in", "in")}, "axes: got ('in', 'in') for 'weight'"),
        ({"wieght": ("in", "out")}, "axes: got the pattern 'wieght', which names no tensor"),
    ],
)
def test_axes_that_do_not_fit_are_refused(axes: Any, text: str) -> None:
    text = text.replace('("in", "out")', "('in', 'out')")
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        of(Ours, axes)
