"""Functions inside `vmap` inside `torch.compile`: written so that one graph does for all batches.

PyTorch's rules of `vmap` for these functions read the number of conditions as a plain number, and
so fix it in the graph: `torch.compile` with dynamic shapes would compile again for every number
(torch 2.13). The rules here use products, reductions and elementwise functions, which fix nothing.
Pooling, `gather` and `scatter` are in other files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom.torch._rules.dtypes import as_plain
from hyperloom.torch._rules.registry import GRAPH, rule
from hyperloom.torch._rules.standin import (
    as_autocast,
    dense_leaf,
    dense_tree,
    without_override_check,
)


@rule(torch.cat, torch.concat, torch.concatenate, when=GRAPH)
def _cat(tensors: Sequence[Any], dim: int = 0, **kwargs: Any) -> Tensor:
    given = [dense_leaf(t) for t in tensors]
    dim = kwargs.pop("axis", dim)
    ndim, kinds = given[0].ndim, {t.dtype for t in given}
    if kwargs or ndim == 0 or len(kinds) > 1 or any(t.ndim != ndim for t in given):
        return torch.cat(given, dim, **kwargs)
    dim = dim % ndim
    sizes = [t.shape[dim] for t in given]
    if all(size == sizes[0] for size in sizes):
        return torch.stack(given, dim).flatten(dim, dim + 1)
    if not given[0].is_floating_point():
        return torch.cat(given, dim)
    total, start, joined = sum(sizes), 0, given[0].new_zeros(())
    for t, size in zip(given, sizes, strict=True):
        after = [0, 0] * (ndim - dim - 1)
        joined = joined + F.pad(t, (*after, start, total - start - size))
        start += size
    return joined


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _layer_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Tensor:
    x, weight, bias = dense_leaf(input), _given(weight), _given(bias)
    axes = [-1 - axis for axis in range(len(normalized_shape))]
    wide = _wide(x)
    y = wide - wide.mean(axes, keepdim=True)
    y = y * (y.square().mean(axes, keepdim=True) + eps).rsqrt()
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias).to(x.dtype)


def _given(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else dense_leaf(tensor)


def _group_norm(
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Tensor:
    x, weight, bias = dense_leaf(input), _given(weight), _given(bias)
    rest = (-1, *(1,) * (x.ndim - 2))
    groups = _wide(x).unflatten(1, (num_groups, x.shape[1] // num_groups)).flatten(2)
    y = groups - groups.mean(-1, keepdim=True)
    y = (y * (y.square().mean(-1, keepdim=True) + eps).rsqrt()).reshape(x.shape)
    y = y if weight is None else y * weight.reshape(rest)
    return (y if bias is None else y + bias.reshape(rest)).to(x.dtype)


@rule(torch.index_select, Tensor.index_select, when=GRAPH)
def _index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:  # noqa: A002
    x = dense_leaf(input)
    place: list[Any] = [slice(None)] * x.ndim
    place[dim] = index
    return x[tuple(place)]


@rule(torch.index_add, Tensor.index_add, when=GRAPH)
def _index_add(
    input: Tensor,  # noqa: A002
    dim: int,
    index: Tensor,
    source: Tensor,
    *,
    alpha: float = 1,
) -> Tensor:
    """Add as a product with a matrix of zeros and ones."""
    x, source = dense_leaf(input), dense_leaf(source)
    if not x.is_floating_point() or index.ndim != 1 or x.dtype != source.dtype:
        return x.index_add(dim, index, source, alpha=alpha)
    rows = torch.arange(x.shape[dim], device=index.device).unsqueeze(-1)
    chosen = (rows == index).to(x.dtype) * alpha
    sums = torch.tensordot(chosen, source.movedim(dim, 0), 1)
    return x + sums.movedim(0, dim)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """Return `F.scaled_dot_product_attention`; on the CPU, where no kernel is lost, by hand."""
    if q.device.type != "cpu" or options.get("enable_gqa"):
        return F.scaled_dot_product_attention(q, k, v, mask, **options)
    scale = options.get("scale") or 1 / math.sqrt(q.shape[-1])
    scores = _wide(q) @ _wide(k).mT * scale
    if options["is_causal"]:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores = scores + mask
    # A row that sees nothing is zero, as in the kernels.
    dead = scores.amax(-1, keepdim=True) == -math.inf
    shares = scores.masked_fill(dead, 0.0).softmax(-1).masked_fill(dead, 0.0)
    shares = F.dropout(shares, options["dropout_p"]) if options["dropout_p"] else shares
    return (shares @ _wide(v)).to(q.dtype)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    q, k, v = as_autocast(query), as_autocast(key), as_autocast(value)
    mask = attn_mask if attn_mask is None else as_autocast(attn_mask)
    return attention(q, k, v, mask, {"dropout_p": dropout_p, "is_causal": is_causal})


_attention_opened = without_override_check(
    F.multi_head_attention_forward, scaled_dot_product_attention=_attention
)


@rule(F.multi_head_attention_forward, when=GRAPH)
def _multi_head_attention(*args: Any, **kwargs: Any) -> Any:
    """Traced whole, with attention as above."""
    return _attention_opened(*dense_tree(args), **dense_tree(kwargs))


rule(F.layer_norm, when=GRAPH)(as_plain(F.layer_norm, _layer_norm))
rule(F.group_norm, when=GRAPH)(as_plain(F.group_norm, _group_norm))
