"""Norms inside `vmap`, where `vmap` itself refuses, is slow or gives another dtype."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom.torch._rules.dtypes import as_plain
from hyperloom.torch._rules.registry import VMAP, rule
from hyperloom.torch._rules.standin import dense_leaf
from hyperloom.torch._target.private import weight_norm

for _norm in (F.layer_norm, F.group_norm, F.instance_norm):
    rule(_norm, when=VMAP)(as_plain(_norm))


@rule(weight_norm, when=VMAP)
def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    v, g = dense_leaf(v), dense_leaf(g)
    kept = None if dim == -1 else dim % v.ndim  # -1 is all of them together
    axes = [axis for axis in range(v.ndim) if axis != kept]
    return v * (g / v.square().sum(axes, keepdim=True).sqrt())


@rule(F.normalize, when=VMAP)
def _normalize(
    input: Tensor,  # noqa: A002
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
    out: Tensor | None = None,
) -> Tensor:
    normalized = F.normalize(input, p, dim, eps)  # vmap has no rule for functions with `out`
    return normalized if out is None else out.copy_(normalized)


_plain_batch_norm = as_plain(F.batch_norm)


@rule(F.batch_norm, when=VMAP)
def _batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    if torch.compiler.is_compiling():
        return by_hand(input, running_mean, running_var, weight, *args, **kwargs)
    return _plain_batch_norm(input, running_mean, running_var, weight, *args, **kwargs)


def by_hand(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return `F.batch_norm`; vmap's rule reads the number of conditions: a graph for each."""
    axes, shape = [0, *range(2, x.ndim)], (-1, *(1,) * (x.ndim - 2))
    if training or running_mean is None or running_var is None:
        mean, var = x.mean(axes), x.var(axes, correction=0)
        if running_mean is not None and running_var is not None:
            count = x.numel() // x.shape[1]
            with torch.no_grad():
                kept, unbiased = 1 - momentum, momentum * count / (count - 1)
                running_mean.mul_(kept).add_(mean.to(running_mean.dtype) * momentum)
                running_var.mul_(kept).add_(var.to(running_var.dtype) * unbiased)
    else:
        mean, var = running_mean, running_var
    y = (x - mean.reshape(shape)) * (var + eps).rsqrt().reshape(shape)
    y = y if weight is None else y * weight.reshape(shape)
    y = y if bias is None else y + bias.reshape(shape)
    return y.to(x.dtype)
