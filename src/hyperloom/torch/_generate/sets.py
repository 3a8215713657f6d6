"""Conditions that are sets, built as modules: a context of elements, or a vector of a set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.choices.sets import AttentionPool, Elements
from hyperloom._core.errors import message, shown
from hyperloom.torch._generate.attention import attend, elements_of, linear
from hyperloom.torch._generate.encoded import Encoded, floating
from hyperloom.torch._generate.table import unit_rows


class ContextCondition(nn.Module):
    """`Context`, built; base class of the encoders of sets."""

    like: Tensor

    def __init__(self, choice: Elements) -> None:
        super().__init__()
        self.choice = choice
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, value: Any) -> Encoded:
        elements, mask = self.read(value)
        empty = elements.new_zeros((*elements.shape[:-2], 0))
        return Encoded(empty, context=elements, mask=mask)

    def read(self, value: Any) -> tuple[Tensor, Tensor | None]:
        """Return elements `(*batch, L, dim)` and mask `(*batch, L)`, what it hides set to 0."""
        choice, pair = self.choice, isinstance(value, tuple) and len(value) == 2
        values, mask = value if pair else (value, None)
        name = f"{type(choice).__name__}({choice.dim})"
        wanted = f"a floating tensor (*batch, L, {choice.dim}) for {name}"
        wanted += ", or the pair of it and a mask (*batch, L) of bools"
        values = floating(values, choice.dim, self.like, wanted)
        if values.ndim < 2 or not values.shape[-2]:
            way_out = (
                "One element is a set too, value[None]; a set without any has a mask of False."
            )
            raise ValueError(message("condition", shown(values), wanted, way_out))
        if choice.std != 1.0:
            values = values / choice.std
        if mask is None:
            return values, None
        check_mask(mask, values)
        mask = mask.to(values.device)
        # What stands in hidden places is to have no part in anything, NaN included.
        return values.masked_fill(~mask.unsqueeze(-1), 0.0), mask


def check_mask(mask: Any, values: Tensor, argument: str = "condition") -> None:
    """Raise unless a mask says of each element whether it is real."""
    shape = tuple(values.shape[:-1])
    wanted = f"a bool mask of shape {shape}, true where an element is real"
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(message(argument, f"the mask {shown(mask)}", wanted))
    if tuple(mask.shape) != shape:
        raise ValueError(message(argument, f"a mask of shape {tuple(mask.shape)}", wanted))


class MeanPoolCondition(ContextCondition):
    """`MeanPool`, built."""

    def forward(self, value: Any) -> Encoded:
        elements, mask = self.read(value)
        if mask is None:
            num: Any = max(1, elements.shape[-2])
        else:
            num = mask.sum(-1, keepdim=True).clamp(min=1)
        return Encoded(elements.sum(-2) / num)


class AttentionPoolCondition(ContextCondition):
    """`AttentionPool`, built."""

    def __init__(self, choice: AttentionPool) -> None:
        super().__init__(choice)
        self.heads = choice.heads
        self.seed = nn.Parameter(unit_rows(torch.empty(choice.width)))
        self.pairs = linear(choice.dim, 2 * choice.width)
        self.out = linear(choice.width, choice.width)

    def forward(self, value: Any) -> Encoded:
        elements = elements_of(*self.read(value))
        query = self.seed.expand(*elements.values.shape[:-2], 1, -1)
        mixed = attend(query, self.pairs(elements.values), self.heads, elements)
        return Encoded(self.out(mixed).squeeze(-2))
