"""Gradients of single samples: against loops, against others' accounts of privacy and curvature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hyperloom.recipes.per_sample import torch as recipe
from hyperloom.recipes.per_sample.data import GROUPS, Images, epsilon, load


# By opacus 1.6.0, `get_privacy_spent` over the whole orders 2 .. 64.
@pytest.mark.parametrize(
    ("share", "noise", "steps", "delta", "spent"),
    [
        (256 / 1257, 2.0, 100, 1e-4, 4.912539009453892),
        (256 / 1257, 1.0, 50, 1e-4, 10.807755712030058),
        (256 / 60000, 1.1, 14062, 1e-5, 2.5969811785953),
        (0.01, 4.0, 1000, 1e-5, 0.30116115855491327),
    ],
)
def test_the_account_of_privacy(
    share: float, noise: float, steps: int, delta: float, spent: float
) -> None:
    assert epsilon(share, noise, steps, delta) == pytest.approx(spent, rel=1e-10)


@pytest.fixture
def images() -> Images:
    learn, _ = load()
    return Images(*(part[:24] for part in learn))


def test_no_image_moves_the_sum_by_more_than_the_clip(images: Images) -> None:
    hnet = recipe.hypernetwork(0)
    lot = [torch.from_numpy(part) for part in images]
    step = recipe.step_of(recipe.of(hnet), hnet, 0.0, recipe.Privacy(clip=0.1, noise=0.0), 0)

    def total(rows: slice) -> dict[str, torch.Tensor]:
        step(*(part[rows] for part in lot))
        named = hnet.named_parameters()
        return {n: recipe.LOT * p.grad.clone() for n, p in named if p.grad is not None}

    every, one_less = total(slice(None)), total(slice(1, None))
    moved = sum((every[name] - one_less[name]).square().sum() for name in every)
    assert float(torch.as_tensor(moved).sqrt()) == pytest.approx(0.1, rel=1e-3)


def test_curvature_by_finite_differences(images: Images) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        hnet = recipe.hypernetwork(0)
    finally:
        torch.set_default_dtype(torch.float32)
    images = Images(images.groups, images.pixels.astype(np.float64), images.digits)
    found = recipe.curvature(hnet, images)
    num = min(int((images.groups == g).sum()) for g in range(GROUPS))
    table, eps = hnet.get_parameter("condition.table.0"), 1e-5
    for g in range(GROUPS):
        rows = np.flatnonzero(images.groups == g)[:num]
        x, y = torch.from_numpy(images.pixels[rows]), torch.from_numpy(images.digits[rows])

        def gradient(g: int = g, x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            loss = nn.functional.cross_entropy(hnet(x, condition=g), y)
            return torch.autograd.grad(loss, table)[0][g]

        for i in range(recipe.DIM):
            with torch.no_grad():
                table[g, i] += eps
            above = gradient()
            with torch.no_grad():
                table[g, i] -= 2 * eps
            below = gradient()
            with torch.no_grad():
                table[g, i] += eps
            torch.testing.assert_close(
                found[g, i], (above - below) / (2 * eps), rtol=1e-6, atol=1e-9
            )


class OfOne(nn.Module):
    """A hypernetwork with a condition given, as a module of its inputs."""

    def __init__(self, hnet: nn.Module) -> None:
        super().__init__()
        self.hnet = hnet

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.hnet(x, condition=1)


def test_curvature_by_curvlinops(images: Images) -> None:
    """The Hessian in all parameters of the generator, through generated weights."""
    curvlinops = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is not installed")
    hnet = recipe.hypernetwork(0).double()
    x = torch.from_numpy(images.pixels).double()
    y = torch.from_numpy(images.digits)
    parameters = {name: value.detach() for name, value in hnet.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = torch.func.functional_call(hnet, parameters, (x,), {"condition": 1})
        return nn.functional.cross_entropy(logits, y)

    vector = {name: torch.randn_like(value) for name, value in parameters.items()}
    gradient = torch.func.grad(loss)
    ours: Any = torch.func.jvp(gradient, (parameters,), (vector,))[1]

    operator = curvlinops.HessianLinearOperator(
        OfOne(hnet), nn.CrossEntropyLoss(), list(hnet.parameters()), [(x, y)]
    )
    flat = torch.cat([value.flatten() for value in vector.values()])
    theirs = operator @ flat
    torch.testing.assert_close(torch.cat([v.flatten() for v in ours.values()]), theirs)
