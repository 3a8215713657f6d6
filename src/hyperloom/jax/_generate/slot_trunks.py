"""Trunks over slots, built as modules: all slots of a condition and its context -> features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from hyperloom._core.backend.checks import check_trunk_output
from hyperloom._core.choices.slot_trunks import Perceiver, Transformer
from hyperloom.jax._generate.activations import ACTIVATIONS
from hyperloom.jax._generate.attention import Attention, Elements, LayerNorm, Linear
from hyperloom.jax._generate.draws import Start
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.slots import with_slots
from hyperloom.jax._target.arrays import ARRAY


class Stage(nnx.Module):
    """One layer: among the tokens, across to others, and between; the first two where they are.

    Args:
        choice: The trunk.
        context: Width of the others; 0 for none.
        start: Where the start of learned numbers comes from.
        among: Whether the tokens attend to each other.
    """

    def __init__(
        self, choice: Transformer | Perceiver, context: int, start: Start, among: bool = True
    ) -> None:
        self.post = choice.norm == "post"
        self.activation = choice.activation
        width, there = choice.width, (among, context > 0, True)
        norms = {str(i): LayerNorm(width, start) for i in range(3) if there[i]}
        self.norms = nnx.Dict(norms)
        inner = Attention(width, width, choice.heads, start) if among else None
        self.among: Any = nnx.data(inner)
        across = Attention(width, context, choice.heads, start) if context else None
        self.across: Any = nnx.data(across)
        self.up = Linear(width, choice.between, start, 2.0)
        self.down = Linear(choice.between, width, start)

    def __call__(self, x: Array, context: Elements | None) -> Array:
        if self.among is not None:
            x = self.add(0, x, lambda y: self.among(y, Elements(y)))
        if self.across is not None:
            x = self.add(1, x, lambda y: self.across(y, context))
        return self.add(2, x, lambda y: self.down(ACTIVATIONS[self.activation](self.up(y))))

    def add(self, place: int, x: Array, part: Callable[[Array], Array]) -> Array:
        """Add what a part makes of the tokens, with its norm before or after."""
        norm: Any = self.norms[str(place)]
        return norm(x + part(x)) if self.post else x + part(norm(x))


class TransformerTrunk(nnx.Module):
    """`Transformer`, built."""

    def __init__(self, choice: Transformer, in_width: int, context: int, start: Start) -> None:
        self.choice = choice
        self.first = Linear(in_width, choice.width, start)
        self.stages = nnx.List([Stage(choice, context, start) for _ in range(choice.depth)])

    def __call__(self, encoded: Encoded, slots: Array | None) -> Array:
        x = tokens_of(self.first, encoded.vector, slots)
        elements = None if encoded.context is None else Elements(encoded.context, encoded.mask)
        for stage in self.stages:
            x = stage(x, elements)
        if self.choice.norm == "pre":
            x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
        return x


class PerceiverTrunk(nnx.Module):
    """`Perceiver`, built."""

    def __init__(self, choice: Perceiver, in_width: int, context: int, start: Start) -> None:
        self.first = Linear(in_width, choice.width, start)
        self.latents = nnx.Param(start.unit_rows((choice.tokens, choice.width)))
        source = context or choice.width
        self.stages = nnx.List([Stage(choice, source, start) for _ in range(choice.depth)])
        self.read = Stage(choice, choice.width, start, among=False)

    def __call__(self, encoded: Encoded, slots: Array | None) -> Array:
        x = tokens_of(self.first, encoded.vector, slots)
        elements = Elements(x)
        if encoded.context is not None:
            elements = Elements(encoded.context, encoded.mask)
        latents = self.latents[...]
        read = jnp.broadcast_to(latents, (*encoded.batch, *latents.shape))
        for stage in self.stages:
            read = stage(read, elements)
        x = self.read(x, Elements(read))
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)


def tokens_of(first: Linear, vector: Array, slots: Array | None) -> Array:
    """Return `first(with_slots(vector, slots))` as one product for each side: `(*batch, C, W)`."""
    if slots is None:
        return first(vector)[..., None, :]
    left, right = jnp.split(first.weight[...].T, [vector.shape[-1]])
    return (vector @ left + first.bias[...])[..., None, :] + slots @ right


class CustomSlotTrunk(nnx.Module):
    """A module of the user's own over slots: `(B, C, E + w)` -> `(B, C, F)`.

    With a context it is also given `(B, L, D)` and its mask `(B, L)`, or `None` where it has none.
    """

    def __init__(self, module: nnx.Module, width: int) -> None:
        self.module = module
        self.width = width

    def __call__(self, encoded: Encoded, slots: Array | None) -> Array:
        tokens, batch, call = with_slots(encoded.vector, slots), encoded.batch, self.module
        rows = math.prod(batch)
        given: list[Any] = [tokens.reshape(rows, *tokens.shape[-2:])]
        if encoded.context is not None:
            context, mask = encoded.context, encoded.mask
            given.append(context.reshape(rows, *context.shape[-2:]))
            given.append(None if mask is None else mask.reshape(rows, -1))
        output = call(*given)  # type: ignore[operator]
        check_trunk_output(self.module, output, (rows, tokens.shape[-2], self.width), ARRAY)
        return output.reshape(*batch, *output.shape[1:])
