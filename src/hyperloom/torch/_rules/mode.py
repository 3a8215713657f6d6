"""What the functions of PyTorch do inside `vmap`, where `vmap` itself refuses or is slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hyperloom.torch._private import saving_hooks, weight_norm
from hyperloom.torch._rules import autocast, recurrent
from hyperloom.torch._rules.attention import attention_rule
from hyperloom.torch._rules.dtypes import as_plain
from hyperloom.torch._rules.graphs import functions
from hyperloom.torch._rules.standin import (
    bilinear,
    dense_leaf,
    dense_tree,
    embedding,
    without_override_check,
)
from hyperloom.torch._target.checkpointing import CheckpointedError, checkpointed

Rule = Callable[..., Any]


class Lowering(TorchFunctionMode):
    """Runs a target's functions by rules of our own, where there is one.

    Args:
        same_draws: Whether random draws are the same for all conditions.

    Raises:
        CheckpointedError: The target checkpoints activations; the recomputation would run when
            `vmap` is over.
    """

    def __init__(self, same_draws: bool = False) -> None:
        super().__init__()
        self.attention = attention_rule(same_draws)
        self.grad = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        self.hooks = saving_hooks() if self.grad else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.grad and checkpointed(self.hooks):
            raise CheckpointedError("it checkpoints activations")
        if func is F.scaled_dot_product_attention:
            return self.attention(*args, **kwargs)
        opened = _OPENED.get(func)
        if opened is not None:
            if torch.compiler.is_compiling():  # a graph cannot enter a mode again
                graphed = functions.OPENED.get(func) or func
                return graphed(*dense_tree(args), **dense_tree(kwargs))
            with self:  # what it calls is to come here too
                return opened(*args, **kwargs)
        rule = _IN_GRAPHS.get(func) if torch.compiler.is_compiling() else _RULES.get(func)
        return func(*args, **kwargs) if rule is None else rule(*args, **kwargs)


# Python functions whose parts have rules.
_OPENED: dict[Any, Rule] = {
    function: without_override_check(function)
    for function in (F.multi_head_attention_forward, getattr(F, "linear_cross_entropy", None))
    if function is not None
}


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    v, g = dense_leaf(v), dense_leaf(g)
    axes = [axis for axis in range(v.ndim) if axis != dim]
    return v * (g / v.square().sum(axes, keepdim=True).sqrt())


def _normalize(
    input: Tensor,  # noqa: A002
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
    out: Tensor | None = None,
) -> Tensor:
    made = F.normalize(input, p, dim, eps)  # vmap has no rule for functions with `out`
    return made if out is None else out.copy_(made)


def _embedding_bag(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Look up all entries, and reduce each bag with a mask over them."""
    bad = offsets is None and input.ndim != 2
    if max_norm is not None or scale_grad_by_freq or sparse or weight.ndim != 2 or bad:
        return F.embedding_bag(
            input,
            dense_leaf(weight),
            offsets,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            sparse,
            per_sample_weights,
            include_last_offset,
            padding_idx,
        )
    rows = F.embedding(input, weight)  # (bags, length, D) or (entries, D)
    used = torch.ones_like(input, dtype=torch.bool)
    if padding_idx is not None:
        used = input != padding_idx % weight.shape[0]
    if offsets is not None:
        starts = offsets[:-1] if include_last_offset else offsets
        place = torch.arange(len(input), device=input.device)
        bag = (place.unsqueeze(-1) >= starts).sum(-1) - 1
        if include_last_offset:
            used = used & (place < offsets[-1])
        used = used & (bag == torch.arange(len(starts), device=input.device).unsqueeze(-1))
    if mode == "max":
        least = torch.finfo(rows.dtype).min
        top = rows.masked_fill(~used.unsqueeze(-1), least).max(-2).values
        return torch.where(used.any(-1, keepdim=True), top, 0.0)
    shares = used.to(rows.dtype)
    if per_sample_weights is not None:
        shares = shares * per_sample_weights
    with torch.autocast(rows.device.type, enabled=False):
        total = (shares.unsqueeze(-2) @ rows).squeeze(-2)
    return total if mode == "sum" else total / used.sum(-1, keepdim=True).clamp(min=1)


_plain_batch_norm = as_plain(F.batch_norm)


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


_RULES: dict[Any, Rule] = {
    **recurrent.RULES,
    **autocast.RULES,
    F.bilinear: bilinear,
    F.embedding: embedding,
    F.embedding_bag: _embedding_bag,
    F.batch_norm: _batch_norm,
    **{norm: as_plain(norm) for norm in (F.layer_norm, F.group_norm, F.instance_norm)},
    F.normalize: _normalize,
    weight_norm: _weight_norm,
}
_IN_GRAPHS = {**_RULES, **functions.RULES}
