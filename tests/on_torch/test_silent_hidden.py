"""What `vmap` hides from code that looks: gradients, hooks, generators of random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests.on_torch.silent import IDS, assert_exact, gradients, inputs, loop, made, target

pytestmark = pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")


def _hooked(self: Any, x: Tensor) -> Tensor:
    y = self.layer(x)
    if y.requires_grad:
        y.register_hook(lambda g: -g / g.norm())
    return y


def _hooks_the_weight(self: Any, x: Tensor) -> Tensor:
    weight = self.layer.weight
    if weight.requires_grad:
        weight.register_hook(lambda g: 3 * g)
    return x @ weight


def _takes_a_gradient(self: Any, x: Tensor) -> Tensor:
    points = x.clone().detach().requires_grad_(True)
    y = self.layer(points).tanh().sum()
    (slope,) = torch.autograd.grad(y, points, create_graph=True)
    return slope @ self.matrix


ASKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "requires_grad": lambda self, x: self.layer(x) * (2 if self.layer(x).requires_grad else 1),
    "grad_fn": lambda self, x: self.layer(x) * (1 if self.layer(x).grad_fn is None else 2),
    "is_leaf": lambda self, x: self.layer(x) * (2 if self.layer(x).is_leaf else 1),
    "of-the-weight": lambda self, x: x @ self.matrix * (2 if self.matrix.requires_grad else 1),
    "grad_fn-of-the-weight": lambda self, x: (
        x * (2 if self.matrix.grad_fn is None else 1) @ self.matrix
    ),
    "of-the-input": lambda self, x: self.layer(x) * (2 if x.requires_grad else 1),
    "hook": _hooked,
    "hook-on-the-weight": _hooks_the_weight,
    "gradient-inside": _takes_a_gradient,
}


@pytest.mark.parametrize("form", [None, {"matrix": hl.LoRA(1), "layer.weight": hl.LoRA(1)}])
@pytest.mark.parametrize("name", ASKS)
def test_code_that_looks_sees_what_a_plain_call_shows(name: str, form: Any) -> None:
    assert_exact(target(ASKS[name]), form=form)


def test_questions_are_answered_without_a_loop() -> None:
    for name in ("requires_grad", "grad_fn", "is_leaf", "of-the-weight"):
        hnet = made(target(ASKS[name]), form={"matrix": hl.LoRA(1)})
        hnet.execution = hl.Execution(strategy="vmap")
        hnet(inputs(), condition=IDS)
        with torch.no_grad():  # and they are answered anew
            torch.testing.assert_close(
                hnet(inputs(), condition=IDS), loop(hnet, target(ASKS[name]), inputs())
            )


# ---- hooks of modules ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_of_modules(kind: str) -> None:
    module: Any = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    scaled = (lambda m, gi, go: tuple(g * 0 for g in gi)) if "pre" not in kind else None
    getattr(module[0], kind)(scaled or (lambda m, go: tuple(3 * g for g in go)))
    hnet, x = made(module), inputs().requires_grad_()
    found = torch.autograd.grad(hnet(x, condition=IDS).sum(), x)[0]
    singly = [
        torch.autograd.grad(hnet(x[i], condition=i).sum(), x, retain_graph=True)[0][i] for i in IDS
    ]
    torch.testing.assert_close(found, torch.stack(singly))
    assert not bool(found.any()) or "pre" in kind


@pytest.mark.parametrize("where", ["one", "batch"])
def test_hooks_for_all_modules(where: str) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    hnet, x = made(module), inputs()
    before = hnet(x, condition=IDS), hnet(x[0], condition=0)  # which must not matter below
    assert len(before) == 2
    handle = nn.modules.module.register_module_forward_hook(
        lambda m, i, o: o * 2 if type(m) is nn.Linear and m.in_features == 4 else None
    )
    try:
        wanted = loop(hnet, module, x)
        ours = hnet(x[0], condition=0) if where == "one" else hnet(x, condition=IDS)
        torch.testing.assert_close(ours, wanted[0] if where == "one" else wanted)
    finally:
        handle.remove()


def test_layers_whose_class_is_patched_later(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    hnet, x = made(module), inputs()
    before = hnet(x, condition=IDS)
    forward = nn.Tanh.forward
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: 2 * forward(self, x))
    torch.testing.assert_close(hnet(x, condition=IDS), 2 * before)
    torch.testing.assert_close(hnet(x[1], condition=1), 2 * before[1])


# ---- generators of random numbers ---------------------------------------------------------------


def _own_generator(self: Any, x: Tensor) -> Tensor:
    return self.layer(x) @ torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()


def _seeds(self: Any, x: Tensor) -> Tensor:
    torch.manual_seed(7)
    return self.layer(x) * torch.rand(4)


class Keeps(nn.Module):
    """Keeps a generator of its own."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        draw = self.generator.random()
        return self.layer(x) * float(draw)


@pytest.mark.parametrize("forward", [_own_generator, _seeds])
def test_seeds_of_the_target_give_each_condition_the_same(forward: Any) -> None:
    assert_exact(target(forward))


DRAWS: dict[str, tuple[Callable[[], nn.Module], Callable[[], None]]] = {
    "python": (
        lambda: target(lambda self, x: self.layer(x) * random.random()),
        lambda: random.seed(0),
    ),
    "numpy": (
        lambda: target(lambda self, x: self.layer(x) * float(np.random.rand())),
        lambda: np.random.seed(0),
    ),
    "kept-python": (lambda: Keeps(random.Random(0)).double(), lambda: None),
    "kept-numpy": (lambda: Keeps(np.random.default_rng(0)).double(), lambda: None),
}


@pytest.mark.parametrize("name", DRAWS)
def test_every_condition_draws_for_itself(name: str) -> None:
    make, seed = DRAWS[name]
    torch.manual_seed(0)
    hnet, x = made(make()), inputs()
    torch.manual_seed(0)
    singles = made(make())
    seed()
    each = torch.stack([singles(x[i], condition=i) for i in IDS])
    later = torch.stack([singles(x[i], condition=i) for i in IDS])
    seed()
    torch.testing.assert_close(hnet(x, condition=IDS), each)
    torch.testing.assert_close(hnet(x, condition=IDS), later)  # and what comes next, too


def test_an_attempt_uses_up_no_random_numbers() -> None:
    """A loop that takes the place of an attempt draws what it would have drawn alone."""
    module = target(
        lambda self, x: self.layer(x) * torch.rand(4) if self.layer(x).sum().item() else x
    )
    hnet, x = made(module), inputs()
    torch.manual_seed(3)
    singly = [hnet(x[i], condition=i) for i in IDS]
    torch.manual_seed(3)
    torch.testing.assert_close(hnet(x, condition=IDS), torch.stack(singly))
    assert gradients(hnet, hnet(x, condition=IDS))
