"""A target in one dtype and a generator in another: outputs in the target's, at full speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

import hyperloom.torch as hl
from tests._support.compare import close
from tests._support.on_torch import hypernetwork, shaken

B = 4
# Of the target -> of the generator, and how far outputs and gradients may be off: in bfloat16 a
# number near 0 that is rounded otherwise comes out on the other side of a ReLU.
GENERATORS = {torch.bfloat16: torch.float32, torch.float32: torch.float64}
TOLERANCES = {torch.bfloat16: (0.05, 0.2), torch.float32: (1e-5, 1e-5)}
FORMS: dict[str, Any] = {
    "whole": hl.Whole(),
    "delta": hl.Delta(),
    "lora": hl.LoRA(2),
    "low rank": hl.LowRank(2),
    "scale": hl.Scale(),
    "shift": hl.Shift(),
    "rank one": hl.RankOne(),
    "templates": hl.Templates(3),
}


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(16, 24), nn.LayerNorm(24), nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(7, 16), nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.last(self.table(ids))


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 24), nn.LayerNorm(24), nn.Tanh(), nn.Linear(24, 4))


def image() -> nn.Module:
    return nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 1))


def layer() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)


TARGETS: dict[str, Callable[[], nn.Module]] = {
    "chain": chain,
    "own": Own,
    "words": Words,
    "image": image,
    "layer": layer,
}


def image_of(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(B, 3, 4, 16).to(dtype)


INPUTS: dict[str, Callable[[torch.dtype], torch.Tensor]] = {
    "words": lambda dtype: torch.randint(0, 7, (B, 3, 5)),
    "image": image_of,
}


def built(name: str, form: str, dtype: torch.dtype) -> tuple[nn.Module, hl.HyperNetwork]:
    """Return a target in a dtype, and a hypernetwork of it in a wider one."""
    target = TARGETS[name]().to(dtype)
    wide = [n for n, p in target.named_parameters() if p.ndim > 1]
    choices: dict[str, Any] = {"layout": dict.fromkeys(wide, hl.Full()), "form": FORMS[form]}
    if form == "delta":  # vectors too
        del choices["layout"]
    usual = torch.get_default_dtype()
    torch.set_default_dtype(GENERATORS[dtype])
    try:
        return target, shaken(hypernetwork(lambda: target, condition=hl.Vector(3), **choices))
    finally:
        torch.set_default_dtype(usual)


def gradients(hnet: hl.HyperNetwork, y: torch.Tensor) -> torch.Tensor:
    # Not of squares: after a norm their sum does not depend on what went in.
    into = torch.linspace(-30, 30, y.numel(), dtype=torch.float64).sin().reshape(y.shape)
    grads = torch.autograd.grad((y.double() * into).sum(), list(hnet.parameters()))
    assert {grad.dtype for grad in grads} == {GENERATORS[y.dtype]}
    return torch.cat([grad.flatten() for grad in grads])


@pytest.mark.filterwarnings("error::hyperloom.torch.SlowWarning")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TARGETS)
def test_every_way_of_running(name: str, form: str, dtype: torch.dtype) -> None:
    if (name, form) == ("image", "shift"):
        pytest.skip("Shift() is for matrices")
    target, hnet = built(name, form, dtype)
    x = INPUTS.get(name, lambda dtype: torch.randn(B, 3, 5, 16).to(dtype))(dtype)
    c = torch.randn(B, 3, dtype=GENERATORS[dtype])

    def alone(i: int) -> torch.Tensor:
        tensors = hnet.generate(c[i])
        assert {value.dtype for value in tensors.values()} == {dtype}
        return functional_call(target, tensors, (x[i],))

    tolerance, of_gradients = TOLERANCES[dtype]
    wanted = torch.stack([alone(i) for i in range(B)])
    wanted_gradients = gradients(hnet, wanted)

    def check(y: torch.Tensor) -> None:
        assert y.dtype == dtype
        close(y, wanted, tolerance, scaled=True)
        difference = gradients(hnet, y) - wanted_gradients
        assert difference.norm() < of_gradients * wanted_gradients.norm()

    for strategy in ("auto", "vmap", "rows", "loop"):
        hnet.execution = hl.Execution(strategy=strategy)
        check(hnet(x, condition=c))
        check(torch.stack([hnet(x[i], condition=c[i]) for i in range(B)]))
    hnet.execution = hl.Execution()
    rows = torch.arange(B).repeat_interleave(3)
    check(hnet(x.flatten(0, 1), condition=c, rows=rows).unflatten(0, (B, 3)))
    with torch.no_grad():
        close(hnet(x, condition=c), wanted, tolerance, scaled=True)


@pytest.mark.parametrize("way", ["dense", "inputs", "outputs"])
@pytest.mark.parametrize("name", ["chain", "own"])
def test_each_way_of_a_layer(name: str, way: str, take: Callable[[str], None]) -> None:
    take(way)
    target, hnet = built(name, "whole", torch.bfloat16)
    x, c = torch.randn(B, 3, 16).bfloat16(), torch.randn(B, 3)
    wanted = [functional_call(target, hnet.generate(c[i]), (x[i],)) for i in range(B)]
    close(hnet(x, condition=c), torch.stack(wanted), 0.05, scaled=True)
