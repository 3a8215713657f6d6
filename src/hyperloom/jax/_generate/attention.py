"""Attention of tokens to each other and to a context: for trunks over slots and set encoders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from hyperloom.jax._generate.draws import Start


@dataclass(frozen=True)
class Elements:
    """What is attended to.

    Attributes:
        values: `(*batch, L, D)`.
        mask: Which of them are real, `(*batch, L)`, or `None` where all are.
    """

    values: Array
    mask: Array | None = None


class Linear(nnx.Module):
    """A linear map, weight `(out, in)` uniform with variance `gain / fan_in`, bias 0."""

    def __init__(self, fan_in: int, fan_out: int, start: Start, gain: float = 1.0) -> None:
        std = math.sqrt(gain / max(1, fan_in))
        self.weight = nnx.Param(start.array(start.uniform((fan_out, fan_in), std)))
        self.bias = nnx.Param(start.zeros((fan_out,)))

    def __call__(self, x: Array) -> Array:
        return x @ self.weight[...].T + self.bias[...]


class LayerNorm(nnx.Module):
    """Layer norm with scale and shift."""

    def __init__(self, width: int, start: Start) -> None:
        self.weight = nnx.Param(start.ones((width,)))
        self.bias = nnx.Param(start.zeros((width,)))

    def __call__(self, x: Array) -> Array:
        centred = x - jnp.mean(x, -1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + 1e-5)
        return centred * scale * self.weight[...] + self.bias[...]


class Attention(nnx.Module):
    """Tokens `(*batch, C, width)` attend to elements of width `source`, head by head."""

    def __init__(self, width: int, source: int, heads: int, start: Start) -> None:
        self.heads = heads
        self.query = Linear(width, width, start)
        self.pairs = Linear(source, 2 * width, start)
        self.out = Linear(width, width, start)

    def __call__(self, tokens: Array, elements: Elements) -> Array:
        pairs = self.pairs(elements.values)
        return self.out(attend(self.query(tokens), pairs, self.heads, elements.mask))


def attend(queries: Array, pairs: Array, heads: int, mask: Array | None) -> Array:
    """Return the values under each query's attention.

    Args:
        queries: `(*batch, C, width)`.
        pairs: Keys and values of the elements, `(*batch, L, 2 * width)`.
        heads: Attention heads.
        mask: Which elements are real, `(*batch, L)`; where none is, the result is 0.
    """
    batch, (num, width) = queries.shape[:-2], queries.shape[-2:]
    pairs = jnp.broadcast_to(pairs, (*batch, *pairs.shape[-2:]))

    def by_head(tokens: Array) -> Array:
        return tokens.reshape(*tokens.shape[:-1], heads, width // heads)

    query, (key, value) = by_head(queries), map(by_head, jnp.split(pairs, 2, -1))
    scores = jnp.einsum("...chd,...lhd->...hcl", query * (width // heads) ** -0.5, key)
    some = None if mask is None else jnp.any(mask, -1, keepdims=True)
    if mask is not None and some is not None:
        # All of a set that has no real elements, so that no number becomes NaN on the way.
        scores = jnp.where((mask | ~some)[..., None, None, :], scores, -jnp.inf)
    mixed = jnp.einsum("...hcl,...lhd->...chd", jax.nn.softmax(scores, -1), value)
    mixed = mixed.reshape(*batch, num, width)
    return mixed if some is None else mixed * some[..., None].astype(mixed.dtype)
