"""Layers with a generated weight inside `vmap`: linear, convolutions, embeddings, bilinear."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom.torch._rules.registry import VMAP, WEIGHT, Rule, rule
from hyperloom.torch._rules.standin import Generated, as_autocast, dense_leaf, dense_tree
from hyperloom.torch._weights.weights import Dense, linear_hidden


# `input` is how torch names it, and it may be given by name.
@rule(F.linear, when=VMAP)
def _linear_on_rows(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
    if any(isinstance(t, Generated) for t in (input, weight, bias)):
        return F.linear(input, weight, bias)
    return linear_hidden(input, weight, bias)


@rule(F.linear, when=WEIGHT)
def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
    if not isinstance(weight, Generated):
        return F.linear(*dense_tree((input, weight, bias)))
    y = weight.weight.linear(dense_leaf(input))
    return y if bias is None else y + dense_leaf(bias).to(y.dtype)


@rule(torch.addmm, Tensor.addmm, when=WEIGHT)
def _addmm(
    input: Tensor,  # noqa: A002
    mat1: Tensor,
    mat2: Tensor,
    *,
    beta: Any = 1,
    alpha: Any = 1,
) -> Tensor:
    """Layers that store `(in, out)`, such as GPT-2's, are linear layers of the transpose."""
    first, bias = dense_leaf(mat1), dense_leaf(input)
    if not isinstance(mat2, Generated) or isinstance(mat2.weight, Dense):
        return torch.addmm(bias, first, dense_leaf(mat2), beta=beta, alpha=alpha)
    y = mat2.weight.turned().linear(first)
    y = y if alpha == 1 else y * alpha
    return y + (bias if beta == 1 else bias * beta).to(y.dtype)


@rule(torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__, when=WEIGHT)
def _matmul(input: Tensor, other: Any) -> Tensor:  # noqa: A002
    first = dense_leaf(input)
    plain = not isinstance(other, Generated) or isinstance(other.weight, Dense)
    if plain or len(other.weight.shape) != 2 or not first.ndim:
        return torch.matmul(first, dense_leaf(other))
    return other.weight.turned().linear(first)


def _convolution(conv: Any, transposed: bool) -> Rule:
    """Return the rule for a convolution whose bias and options come after the weight."""

    def convolve(
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        x = as_autocast(dense_leaf(input))
        if not isinstance(weight, Generated):
            return conv(x, weight, dense_leaf(bias), *args, **kwargs)
        groups = kwargs.get("groups", args[3] if len(args) > 3 else 1)

        def apply(x: Tensor, kernel: Tensor, times: int) -> Tensor:
            return conv(x, as_autocast(kernel), None, *args, **kwargs)

        y = weight.weight.convolve(apply, x, transposed, groups)
        if bias is None:
            return y
        spatial = len(weight.weight.shape) - 2
        return y + dense_leaf(bias).to(y.dtype).reshape(-1, *(1,) * spatial)

    return convolve


for _n in (1, 2, 3):
    for _name, _transposed in ((f"conv{_n}d", False), (f"conv_transpose{_n}d", True)):
        _conv = getattr(F, _name)
        rule(_conv, when=WEIGHT)(_convolution(_conv, _transposed))


@rule(F.embedding, when=(WEIGHT, VMAP))
def _embedding(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    if max_norm is not None or scale_grad_by_freq:  # `sparse` is for gradients of leaves
        options = (padding_idx, max_norm, norm_type, scale_grad_by_freq)
        return F.embedding(dense_leaf(input), dense_leaf(weight), *options)
    ids = dense_leaf(input)
    if padding_idx is None and isinstance(weight, Generated):
        with torch.autocast(weight.modes.device, enabled=False):  # it leaves a look-up alone
            return weight.weight.embed(ids).to(weight.kind)
    dense = dense_leaf(weight)
    if padding_idx is not None:  # its row gets no gradient; vmap over F.embedding forgets that
        rows = torch.arange(len(dense), device=dense.device).unsqueeze(-1)
        dense = torch.where(rows == padding_idx % len(dense), dense.detach(), dense)
    # vmap's rule for F.embedding reads the number of conditions: a graph for each.
    return dense[ids] if torch.compiler.is_compiling() else F.embedding(ids, dense)


@rule(F.bilinear, when=(WEIGHT, VMAP))
def _bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `F.bilinear` as one product."""
    # As one product: vmap has no rule for bilinear and would loop.
    outer = (dense_leaf(input1).unsqueeze(-1) * dense_leaf(input2).unsqueeze(-2)).flatten(-2)
    y = outer @ dense_leaf(weight).flatten(1).mT
    return y if bias is None else y + dense_leaf(bias)


@rule(F.embedding_bag, when=VMAP)
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
    if max_norm is not None or scale_grad_by_freq or weight.ndim != 2 or bad:
        return F.embedding_bag(
            input,
            dense_leaf(weight),
            offsets,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            False,  # `sparse` is for gradients of leaves
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
