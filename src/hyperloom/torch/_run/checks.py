"""Tensors that a user gives for the target, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hyperloom._core.backend import checks
from hyperloom._core.errors import message
from hyperloom.torch._arrays import TENSOR
from hyperloom.torch._generate.generator import Generator


def check_params(generator: Generator, params: Mapping[str, Tensor]) -> torch.Size:
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
