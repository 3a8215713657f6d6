"""Tensors that a user gives for the target, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hyperloom._core.errors import did_you_mean, message
from hyperloom.torch._generate.generator import Generator


def check_params(generator: Generator, params: Mapping[str, Tensor]) -> torch.Size:
    """Check given tensors against the target; return their batch dimensions.

    Raises:
        TypeError: Not a mapping, or a value that is not a tensor of the target's dtype.
        ValueError: A missing or unknown name, a wrong shape, or another device.
    """
    if not isinstance(params, Mapping):
        got = f"a {type(params).__name__}"
        raise TypeError(message("params", got, "a dict from names to tensors"))
    needed = {entry.tensor for entry in generator.plan.entries}
    known = needed | set(generator.plan.kept)
    unknown = [name for name in params if name not in known]
    missing = sorted(needed - set(params))
    if unknown:
        way_out = did_you_mean(unknown[0], sorted(known))
        raise ValueError(
            message("params", f"the name {unknown[0]!r}", "names of the target", way_out)
        )
    if missing:
        got = f"no tensor for {', '.join(map(repr, missing))}"
        raise ValueError(message("params", got, "a tensor for every generated name"))
    batch: torch.Size | None = None
    # Not every hypernetwork has parameters: Given() with a Vector has none.
    device = next(iter((*generator.parameters(), *generator.buffers()))).device
    for name, value in params.items():
        batch = _check_one(generator, name, value, batch, device)
    assert batch is not None
    return batch


def _check_one(
    generator: Generator, name: str, value: Any, batch: torch.Size | None, device: Any
) -> torch.Size | None:
    shape = torch.Size(generator.plan.spec[name].shape)
    if not isinstance(value, Tensor):
        raise TypeError(message(f"params[{name!r}]", value, "a tensor"))
    dtype = generator.dtypes[name]
    if value.dtype != dtype:
        way_out = f"Convert it: .to({dtype})."
        raise TypeError(message(f"params[{name!r}]", f"{value.dtype}", f"{dtype}", way_out))
    if value.device != device:
        raise ValueError(
            message(f"params[{name!r}]", f"{value.device}", f"{device}, as the hypernetwork")
        )
    own = () if name in generator.plan.kept else batch
    lead = value.shape[: value.ndim - len(shape)]
    if value.shape[len(lead) :] != shape or (own is not None and lead != torch.Size(own)):
        got = f"shape {tuple(value.shape)}"
        sizes = (*(["*batch"] if own is None else own), *shape)
        wanted = str(sizes).replace("'", "")
        raise ValueError(message(f"params[{name!r}]", got, f"shape {wanted}"))
    return batch if name in generator.plan.kept else lead


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
