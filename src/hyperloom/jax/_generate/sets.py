"""Conditions that are sets, built as modules: a context of elements, or a vector of a set."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.choices.sets import AttentionPool, Elements
from hyperloom._core.errors import message
from hyperloom.jax._generate.attention import Linear, attend
from hyperloom.jax._generate.draws import Start
from hyperloom.jax._generate.encoded import Encoded, shown


class ContextCondition(nnx.Module):
    """`Context`, built; base class of the encoders of sets."""

    def __init__(self, choice: Elements, start: Start) -> None:
        self.choice = choice
        self.dtype = start.dtype

    def __call__(self, value: Any, keys: Any = None) -> Encoded:
        elements, mask = self.read(value)
        empty = jnp.zeros((*elements.shape[:-2], 0), elements.dtype)
        return Encoded(empty, context=elements, mask=mask)

    def read(self, value: Any) -> tuple[Array, Array | None]:
        """Return elements `(*batch, L, dim)` and mask `(*batch, L)`, what it hides set to 0."""
        choice, pair = self.choice, isinstance(value, tuple) and len(value) == 2
        values, mask = value if pair else (value, None)
        name = f"{type(choice).__name__}({choice.dim})"
        wanted = f"a floating array (*batch, L, {choice.dim}) for {name}"
        wanted += ", or the pair of it and a mask (*batch, L) of bools"
        if not isinstance(values, (Array, np.ndarray)):
            raise TypeError(message("condition", shown(values), wanted))
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise TypeError(message("condition", shown(values), wanted, "Call .astype(float)."))
        if values.ndim < 2 or values.shape[-1] != choice.dim or not values.shape[-2]:
            way_out = "One element is value[None]; a set without elements has a mask of False."
            raise ValueError(message("condition", shown(values), wanted, way_out))
        elements = jnp.asarray(values, self.dtype) / choice.std
        if mask is None:
            return elements, None
        check_mask(mask, elements)
        mask = jnp.asarray(mask)
        # What stands in hidden places is to have no part in anything, NaN included.
        return jnp.where(mask[..., None], elements, 0), mask


def check_mask(mask: Any, values: Array, argument: str = "condition") -> None:
    """Raise unless a mask says of each element whether it is real."""
    shape = tuple(values.shape[:-1])
    wanted = f"a bool mask of shape {shape}, true where an element is real"
    if not isinstance(mask, (Array, np.ndarray)) or mask.dtype != bool:
        raise TypeError(message(argument, f"the mask {shown(mask)}", wanted))
    if tuple(mask.shape) != shape:
        raise ValueError(message(argument, f"a mask of shape {tuple(mask.shape)}", wanted))


class MeanPoolCondition(ContextCondition):
    """`MeanPool`, built."""

    def __call__(self, value: Any, keys: Any = None) -> Encoded:
        elements, mask = self.read(value)
        num: Any = elements.shape[-2]
        if mask is not None:
            num = jnp.maximum(mask.sum(-1, keepdims=True), 1).astype(elements.dtype)
        return Encoded(elements.sum(-2) / num)


class AttentionPoolCondition(ContextCondition):
    """`AttentionPool`, built."""

    def __init__(self, choice: AttentionPool, start: Start) -> None:
        super().__init__(choice, start)
        self.heads = choice.heads
        self.seed = nnx.Param(start.unit_rows((choice.width,)))
        self.pairs = Linear(choice.dim, 2 * choice.width, start)
        self.out = Linear(choice.width, choice.width, start)

    def __call__(self, value: Any, keys: Any = None) -> Encoded:
        elements, mask = self.read(value)
        seed = self.seed[...]
        query = jnp.broadcast_to(seed, (*elements.shape[:-2], 1, *seed.shape))
        return Encoded(self.out(attend(query, self.pairs(elements), self.heads, mask))[..., 0, :])
