"""Attention of tokens to each other and to a context: for trunks over slots and set encoders."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom.torch._target.private import inside_transform


class Elements(NamedTuple):
    """What is attended to.

    Attributes:
        values: `(*batch, L, D)`.
        seen: Which of them each query may see, `(*batch, 1, 1, L)`, where some are hidden: those
            that are real, or all of a set that has no real ones.
        some: Whether there are real ones, `(*batch, 1, 1)` of 0 and 1; `None` without a mask.
    """

    values: Tensor
    seen: Tensor | None = None
    some: Tensor | None = None


def elements_of(values: Tensor, mask: Tensor | None) -> Elements:
    """Return elements `(*batch, L, D)` with a mask `(*batch, L)`, as attention reads them."""
    if mask is None:
        return Elements(values)
    some = mask.any(-1, keepdim=True)
    return Elements(values, (mask | ~some)[..., None, None, :], some[..., None].to(values.dtype))


def linear(fan_in: int, fan_out: int, gain: float = 1.0) -> nn.Linear:
    """Return a linear map whose weight starts uniform with variance `gain / fan_in`, bias 0."""
    layer = nn.Linear(fan_in, fan_out)
    bound = math.sqrt(3 * gain / max(1, fan_in))
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer


class LayerNorm(nn.LayerNorm):
    """Layer norm that has right second derivatives inside `vmap` too (torch 2.13 has not)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if not inside_transform():
            return super().forward(input)
        var, mean = torch.var_mean(input, -1, correction=0, keepdim=True)
        return (input - mean) * (var + self.eps).rsqrt() * self.weight + self.bias


class Attention(nn.Module):
    """Tokens `(*batch, C, width)` attend to elements of width `source`, head by head."""

    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = linear(width, width)
        self.pairs = linear(source, 2 * width)
        self.out = linear(width, width)

    def forward(self, tokens: Tensor, elements: Elements) -> Tensor:
        return self.out(
            attend(self.query(tokens), self.pairs(elements.values), self.heads, elements)
        )


def attend(queries: Tensor, pairs: Tensor, heads: int, elements: Elements) -> Tensor:
    """Return the values under each query's attention.

    Args:
        queries: `(*batch, C, width)`.
        pairs: Keys and values of the elements, `(*batch, L, 2 * width)`.
        heads: Attention heads.
        elements: What the pairs are of; where a set has no real ones, the result is 0.
    """
    batch = queries.shape[:-2]
    key, value = pairs.chunk(2, -1)
    query = _by_head(queries, heads)
    key, value = (_by_head(t.expand(*batch, *t.shape[-2:]), heads) for t in (key, value))
    mixed = _mixed(query, key, value, elements.seen).transpose(-2, -3).flatten(-2)
    return mixed if elements.some is None else mixed * elements.some


def _by_head(tokens: Tensor, heads: int) -> Tensor:
    """Cut `(*batch, L, width)` by head: `(*batch, heads, L, width / heads)`."""
    return tokens.unflatten(-1, (heads, -1)).transpose(-2, -3)


def _mixed(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
    """Return attention by PyTorch's fused operation where that can do all that is asked of it."""
    if torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    if inside_transform():  # no batching rule, and no forward derivative
        return _by_formula(query, key, value, seen)
    return _Fused.apply(query, key, value, seen)  # type: ignore[return-value]


def _by_formula(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    return scores.softmax(-1) @ value


class _Fused(torch.autograd.Function):
    """The fused operation, whose backward pass in PyTorch has no derivative of its own.

    Where a derivative of the gradient will be asked for, the gradient is that of the formula.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
        if not any(ctx.needs_input_grad):
            return F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in (query, key, value)]
            output = F.scaled_dot_product_attention(*inputs, attn_mask=seen)
        ctx.save_for_backward(query, key, value, seen)
        ctx.inner = inputs, output
        return output.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            query, key, value, seen = ctx.saved_tensors
            inputs, output = (query, key, value), _by_formula(query, key, value, seen)
            wanted = [t for t in inputs if t.requires_grad]
            found = iter(torch.autograd.grad(output, wanted, grads, create_graph=True))
            return (*(next(found) if t.requires_grad else None for t in inputs), None)
        inputs, output = ctx.inner
        return (*torch.autograd.grad(output, inputs, grads, retain_graph=True), None)
