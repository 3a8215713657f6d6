"""Attention with the conditions folded into the batch.

Attention has no weights: B conditions with N inputs per condition are a batch of B N inputs.
Under `vmap` PyTorch would run its backward pass one condition after the other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom.torch._rules.graphs.functions import attention as graphed
from hyperloom.torch._rules.registry import OPENED, WEIGHT, rule
from hyperloom.torch._rules.standin import as_autocast, without_override_check
from hyperloom.torch._target.private import is_batched


class _Folded(torch.autograd.Function):
    """`F.scaled_dot_product_attention` with a rule of its own for `vmap`.

    Inside `vmap` only the rule is used; what it calls is differentiated as always.
    """

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, **options)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("attention differentiated inside vmap")

    @staticmethod
    def vmap(  # type: ignore[override]
        info: Any, in_dims: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, options: Any
    ) -> tuple[Tensor, int]:
        num = info.batch_size
        q, k, v = (
            t.expand(num, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip((q, k, v), in_dims, strict=False)
        )
        lead = q.shape[:-3]  # (B, N ...): everything before heads, rows and widths
        if mask is not None:
            mask = mask.unsqueeze(0) if in_dims[3] is None else mask.movedim(in_dims[3], 0)
            missing = q.ndim - mask.ndim
            mask = mask.reshape(mask.shape[0], *(1,) * missing, *mask.shape[1:])
            if len(lead) > 1:
                mask = mask.expand(*lead, *mask.shape[-3:]).flatten(0, len(lead) - 1)
        if len(lead) > 1:
            q, k, v = (t.flatten(0, len(lead) - 1) for t in (q, k, v))
        y = attend(q, k, v, mask, options)
        return (y.unflatten(0, lead) if len(lead) > 1 else y), 0


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor:
    """Return the attention; folded where the tensors are those of a `vmap`."""
    given = [t for t in (q, k, v, mask) if t is not None]
    if any(is_batched(t) for t in given):
        return _Folded.apply(q, k, v, mask, options)  # type: ignore[no-any-return]
    return F.scaled_dot_product_attention(q, k, v, mask, **options)


def attention(
    same_draws: bool,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """Return `F.scaled_dot_product_attention`; `same_draws` says how dropout draws."""
    options.update(dropout_p=dropout_p, is_causal=is_causal)
    query, key, value = map(as_autocast, (query, key, value))
    attn_mask = attn_mask if attn_mask is None else as_autocast(attn_mask)
    if torch.compiler.is_compiling():
        return graphed(query, key, value, attn_mask, options)
    if dropout_p and same_draws:  # one mask of dropout for all conditions cannot be folded
        return F.scaled_dot_product_attention(query, key, value, attn_mask, **options)
    return attend(query, key, value, attn_mask, options)


# Its parts have rules: the projections and the attention.
_opened = without_override_check(F.multi_head_attention_forward)
rule(F.multi_head_attention_forward, when=(OPENED, WEIGHT))(_opened)
_cross_entropy = getattr(F, "linear_cross_entropy", None)  # not in every torch
if _cross_entropy is not None:
    rule(_cross_entropy, when=OPENED)(without_override_check(_cross_entropy))
