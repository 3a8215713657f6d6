"""Tensors that a user gives for the target, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hyperloom._core.backend import checks
from hyperloom._core.backend.factors import Factors, dense, rows_first
from hyperloom._core.errors import message
from hyperloom.torch._generate.generator import Generator
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._target.arrays import TENSOR
from hyperloom.torch._weights.factored import LowRankWeight
from hyperloom.torch._weights.weights import Weight


def check_params(generator: Generator, params: Mapping[str, Tensor | Factors]) -> torch.Size:
    """Check given tensors against the target; return their batch dimensions.

    Raises:
        TypeError: Not a mapping, or a value that is not a tensor of the target's dtype.
        ValueError: A missing or unknown name, a wrong shape, or another device.
    """
    # Not every hypernetwork has parameters: Given() with a Vector has none.
    device = next(iter((*generator.parameters(), *generator.buffers()))).device

    def check(name: str, value: Tensor) -> None:
        dtype = generator.dtypes[name]
        if value.dtype != dtype:
            way_out = f"Convert it: .to({dtype})."
            raise TypeError(message(f"params[{name!r}]", f"{value.dtype}", f"{dtype}", way_out))
        if value.device != device:
            wanted = f"{device}, as the hypernetwork"
            raise ValueError(message(f"params[{name!r}]", f"{value.device}", wanted))

    return torch.Size(checks.check_params(generator.plan, params, TENSOR, check))


def ids_of(generator: Generator, condition: Any, batch: torch.Size) -> Tensor | None:
    """Return the ids `(*batch,)` of a condition that is given beside parameters.

    Raises:
        ValueError: Conditions of another batch than the parameters'.
    """
    if condition is None:
        return None
    encoded = generator.encode(condition)
    if encoded.batch != batch:
        got = f"conditions {tuple(encoded.batch)} beside params of {tuple(batch)}"
        raise ValueError(message("condition", got, "one for each set of params"))
    return encoded.ids


def with_weights(
    generator: Generator, runner: Runner, params: Mapping[str, Tensor | Factors], batch: torch.Size
) -> dict[str, Tensor | Weight]:
    """Return given tensors with a weight in the place of factors, over the base that they change.

    Args:
        generator: What generates.
        runner: What runs.
        params: Checked tensors and factors.
        batch: Their batch. One batch dimension has weights that are applied by their factors.
    """
    plan, bases, kept = generator.plan, dict(generator.bases.tensors()), runner.kept()
    weights: dict[str, Tensor | Weight] = {}
    for name, value in params.items():
        if not isinstance(value, Factors):
            weights[name] = value
            continue
        tensor, base = plan.spec[name], bases.get(name, kept.get(name))
        u, v = rows_first(value, tensor)
        if len(batch) == 1 and u.shape[-2] == tensor.shape[0]:
            shape = torch.Size(tensor.shape)
            weights[name] = LowRankWeight(name, shape, batch[0], u, v, value.scaling, base)
        else:
            weights[name] = dense(value, tensor, base).to(generator.dtypes[name])
    return weights
