"""Hypernetworks to differentiate, and central differences to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import hyperloom.torch as hl
from tests._support.compare import close as close
from tests.on_torch.cases import Case

Tensors = dict[str, Tensor]


@dataclass(frozen=True, repr=False)
class Model:
    """A hypernetwork with what it is fed."""

    hnet: hl.HyperNetwork
    inputs: Tensor
    ids: Tensor
    vectors: Tensor
    parameters: Tensors

    @property
    def x(self) -> Tensor:
        return self.inputs[0]

    @property
    def id(self) -> Tensor:
        return self.ids[0]

    @property
    def vector(self) -> Tensor:
        return self.vectors[0]

    def call(self, parameters: Tensors, x: Tensor, ids: Tensor, vectors: Tensor) -> Tensor:
        """Run the hypernetwork with other learned tensors."""
        kwargs = {"condition": (ids, vectors)}
        return functional_call(self.hnet, parameters, (x,), kwargs, strict=False)

    def generate(self, parameters: Tensors, ids: Tensor, vectors: Tensor) -> Tensors:
        return functional_call(
            Generator(self.hnet), {f"hnet.{n}": p for n, p in parameters.items()}, ((ids, vectors),)
        )


class Generator(nn.Module):
    """`generate` as a forward: functional_call reaches no other method."""

    def __init__(self, hnet: hl.HyperNetwork) -> None:
        super().__init__()
        self.hnet = hnet

    def forward(self, condition: Any) -> Tensors:
        return self.hnet.generate(condition)


def model_of_case(
    target: str, layout: str, trunk: str = "mlp-plain", form: str = "whole", seed: int = 0
) -> Model:
    case = Case(target, layout, form, "embedding+vector", trunk)
    hnet = case.build(seed=seed)
    ids, vectors = case.conditions(3)
    parameters = {n: p.detach().clone() for n, p in hnet.named_parameters()}
    return Model(hnet, case.inputs(3), ids, vectors, parameters)


def loss(y: Tensor) -> Tensor:
    """Return a fixed functional that is not linear: all second derivatives count."""
    return (y * torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)).sin().sum()


def randoms(like: Any) -> Any:
    """Return a direction: random tensors of the same structure."""
    if isinstance(like, dict):
        return {name: torch.randn_like(value) for name, value in like.items()}
    return torch.randn_like(like)


def moved(at: Any, direction: Any, by: float) -> Any:
    if isinstance(at, dict):
        return {name: value + by * direction[name] for name, value in at.items()}
    return at + by * direction


def difference(fn: Callable[[Any], Any], at: Any, direction: Any, step: float = 1e-5) -> Any:
    """Return the derivative of `fn` along `direction`: a central difference of fourth order."""
    far = [fn(moved(at, direction, by * step)) for by in (-2, -1, 1, 2)]
    if isinstance(far[0], dict):
        return {n: _stencil([f[n] for f in far], step) for n in far[0]}
    return _stencil(far, step)


def _stencil(values: list[Tensor], step: float) -> Tensor:
    a, b, c, d = values
    return (a - 8 * b + 8 * c - d) / (12 * step)


def along(gradient: Any, direction: Any) -> Tensor:
    if isinstance(gradient, dict):
        return torch.stack([(g * direction[n]).sum() for n, g in gradient.items()]).sum()
    return (gradient * direction).sum()
