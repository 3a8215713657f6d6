"""Trunks over slots, built as modules: all slots of a condition and its context -> features."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom._core.backend.checks import check_trunk_output
from hyperloom._core.choices.slot_trunks import Perceiver, Transformer
from hyperloom.torch._generate.activations import ACTIVATIONS
from hyperloom.torch._generate.attention import (
    Attention,
    Elements,
    LayerNorm,
    elements_of,
    linear,
)
from hyperloom.torch._generate.slots import with_slots
from hyperloom.torch._generate.table import unit_rows
from hyperloom.torch._target.arrays import TENSOR


class Stage(nn.Module):
    """One layer: among the tokens, across to others, and between; the first two where they are.

    Args:
        choice: The trunk.
        context: Width of the others; 0 for none.
        among: Whether the tokens attend to each other.
    """

    def __init__(self, choice: Transformer | Perceiver, context: int, among: bool = True) -> None:
        super().__init__()
        self.post = choice.norm == "post"
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[choice.activation]
        width, there = choice.width, (among, context > 0, True)
        self.norms = nn.ModuleDict({str(i): LayerNorm(width) for i in range(3) if there[i]})
        self.among = Attention(width, width, choice.heads) if among else None
        self.across = Attention(width, context, choice.heads) if context else None
        self.up = linear(width, choice.between, 2.0)
        self.down = linear(choice.between, width)

    def forward(self, x: Tensor, context: Elements | None) -> Tensor:
        if self.among is not None:
            x = self.add(0, x, lambda y: self.among(y, Elements(y)))  # type: ignore[misc]
        if self.across is not None:
            x = self.add(1, x, lambda y: self.across(y, context))  # type: ignore[misc]
        return self.add(2, x, lambda y: self.down(self.activation(self.up(y))))

    def add(self, place: int, x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        """Add what a part makes of the tokens, with its norm before or after."""
        norm = self.norms[str(place)]
        return norm(x + part(x)) if self.post else x + part(norm(x))


class TransformerTrunk(nn.Module):
    """`Transformer`, built."""

    def __init__(self, choice: Transformer, in_width: int, context: int) -> None:
        super().__init__()
        self.choice = choice
        self.first = linear(in_width, choice.width)
        self.stages = nn.ModuleList(Stage(choice, context) for _ in range(choice.depth))

    def forward(
        self,
        vector: Tensor,
        slots: Tensor | None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        x = tokens_of(self.first, vector, slots)
        elements = None if context is None else elements_of(context, mask)
        for stage in self.stages:
            x = stage(x, elements)
        if self.choice.norm == "pre":
            x = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return x if slots is not None else x.squeeze(-2)


class PerceiverTrunk(nn.Module):
    """`Perceiver`, built."""

    def __init__(self, choice: Perceiver, in_width: int, context: int) -> None:
        super().__init__()
        self.first = linear(in_width, choice.width)
        self.latents = nn.Parameter(unit_rows(torch.empty(choice.tokens, choice.width)))
        source = context or choice.width
        self.stages = nn.ModuleList(Stage(choice, source) for _ in range(choice.depth))
        self.read = Stage(choice, choice.width, among=False)

    def forward(
        self,
        vector: Tensor,
        slots: Tensor | None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        x = tokens_of(self.first, vector, slots)
        elements = Elements(x) if context is None else elements_of(context, mask)
        read = self.latents.expand(*vector.shape[:-1], *self.latents.shape)
        for stage in self.stages:
            read = stage(read, elements)
        x = self.read(x, Elements(read))
        x = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return x if slots is not None else x.squeeze(-2)


def tokens_of(first: nn.Linear, vector: Tensor, slots: Tensor | None) -> Tensor:
    """Return `first(with_slots(vector, slots))` as one product for each side: `(*batch, C, W)`."""
    if slots is None:
        return first(vector).unsqueeze(-2)
    left, right = first.weight.split([vector.shape[-1], slots.shape[-1]], dim=1)
    return F.linear(vector, left, first.bias).unsqueeze(-2) + F.linear(slots, right)


class CustomSlotTrunk(nn.Module):
    """A module of the user's own over slots: `(B, C, E + w)` -> `(B, C, F)`.

    With a context it is also given `(B, L, D)` and its mask `(B, L)`, or `None` where it has none.
    """

    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.module = module
        self.width = width

    def forward(
        self,
        vector: Tensor,
        slots: Tensor | None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        tokens = vector.unsqueeze(-2) if slots is None else with_slots(vector, slots)
        batch, shape = vector.shape[:-1], (math.prod(vector.shape[:-1]), tokens.shape[-2])
        given = [tokens.reshape(*shape, tokens.shape[-1])]
        if context is not None:
            flat = context.reshape(shape[0], *context.shape[len(batch) :])
            given += [flat, None if mask is None else mask.reshape(shape[0], -1)]  # type: ignore[list-item]
        output = self.module(*given)
        check_trunk_output(self.module, output, (*shape, self.width), TENSOR)
        features = output.reshape(*batch, shape[1], self.width)
        return features if slots is not None else features.squeeze(-2)
