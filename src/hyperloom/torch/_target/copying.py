"""Copies of modules over other tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.target.spec import TargetSpec

Convert = Callable[[Tensor], Tensor]


def tie(module: nn.Module, spec: TargetSpec) -> nn.Module:
    """Make names that share storage in the target share one parameter again."""
    for tensor in spec:
        path, _, key = tensor.name.rpartition(".")
        parameter = module.get_submodule(path)._parameters[key]
        for alias in tensor.aliases:
            path, _, key = alias.rpartition(".")
            module.get_submodule(path)._parameters[key] = parameter
    return module


def copy_with(module: nn.Module, value: Convert, as_given: bool = False) -> nn.Module:
    """Deep-copy a module with every parameter and buffer replaced by `value` of it.

    The original tensors are never copied, so a large target costs no memory. With `as_given` the
    values stand in the copy as they are, with their gradients; else parameters are made of them.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for tensor in part._parameters.values():
            if tensor is not None and id(tensor) not in memo:
                new = value(tensor)
                memo[id(tensor)] = (
                    new if as_given else nn.Parameter(new.detach(), tensor.requires_grad)
                )
        for tensor in part._buffers.values():
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = value(tensor)
        for attribute in part.__dict__.values():
            # deepcopy refuses tensors that were computed, e.g. the cache of a weight norm.
            if isinstance(attribute, Tensor) and not attribute.is_leaf:
                memo[id(attribute)] = attribute.detach().clone()
    with torch.no_grad():
        return copy.deepcopy(module, memo)
