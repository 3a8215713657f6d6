"""A batch beside its definition: single networks, one after the other, with what `generate` gives.

For the tests of what could go wrong without a word. In float64, on generators that were shaken.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import hyperloom.torch as hl

IDS = [0, 1, 2]


class Two(nn.Module):
    """A layer and a matrix; what is done with them is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.matrix = nn.Parameter(torch.randn(4, 4))


def target(forward: Callable[..., Any], base: type[nn.Module] = Two) -> Any:
    """Return a module with a forward of its own, in float64."""
    torch.manual_seed(0)
    return type("Target", (base,), {"forward": forward})().double()


def made(module: nn.Module, **choices: Any) -> hl.HyperNetwork:
    """Return a hypernetwork of a target, away from its start."""
    torch.manual_seed(1)
    hnet = hl.HyperNetwork(module, condition=hl.Embedding(4, 3), **choices)
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return hnet


def inputs(*shape: int) -> Tensor:
    """Return inputs of three conditions, in float64."""
    torch.manual_seed(2)
    return torch.randn(3, *(shape or (2, 4)), dtype=torch.float64)


def loop(hnet: hl.HyperNetwork, module: nn.Module, x: Tensor) -> Tensor:
    """Return what the definition gives: plain modules, one after the other."""
    params, module = hnet.generate(IDS), copy.deepcopy(module)
    rows = [{name: value[i] for name, value in params.items()} for i in range(len(IDS))]
    return torch.stack(
        [functional_call(module, own, (x[i].clone(),)) for i, own in enumerate(rows)]
    )


def gradients(hnet: hl.HyperNetwork, y: Tensor) -> list[Tensor]:
    """Return the gradient of every parameter."""
    found = torch.autograd.grad(
        y.square().sum(), list(hnet.parameters()), allow_unused=True, materialize_grads=True
    )
    return list(found)


def assert_exact(module: nn.Module, x: Tensor | None = None, **choices: Any) -> hl.HyperNetwork:
    """Compare a batch with the definition, and each condition alone: outputs and gradients."""
    x = inputs() if x is None else x
    hnet = made(module, **choices)
    wanted = loop(hnet, module, x)
    for _ in range(2):  # the second call knows what the first has found
        ours = hnet(x.clone(), condition=IDS)
        torch.testing.assert_close(ours, wanted)
        close_and_some(gradients(hnet, ours), gradients(hnet, loop(hnet, module, x)))
    singly = torch.stack([hnet(x[i].clone(), condition=i) for i in IDS])
    torch.testing.assert_close(singly, wanted)
    return hnet


def close_and_some(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Assert equal numbers, and that there are some."""
    assert any(bool(t.any()) for t in theirs)
    torch.testing.assert_close(ours, theirs)
