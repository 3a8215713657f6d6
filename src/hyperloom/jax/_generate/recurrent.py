"""`Recurrent`, built: a cell whose hidden state is the condition's vector."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.choices.conditions import NUM_GATES, Recurrent
from hyperloom._core.errors import message
from hyperloom.jax._generate.draws import Start
from hyperloom.jax._generate.encoded import Encoded, shown

_SAMPLE_STEPS = 8


class RecurrentCondition(nnx.Module):
    """The cell, with the parameters of PyTorch's."""

    has_carry = True

    def __init__(self, choice: Recurrent, start: Start) -> None:
        self.choice = choice
        self.dtype = start.dtype
        rows = NUM_GATES[choice.cell] * choice.hidden
        std = 1 / math.sqrt(3 * choice.hidden)

        def draw(*shape: int) -> nnx.Param[Array]:
            return nnx.Param(start.array(start.uniform(shape, std)))

        self.weight_ih, self.bias_ih = draw(rows, choice.dim), draw(rows)
        self.weight_hh, self.bias_hh = draw(rows, choice.hidden), draw(rows)

    def __call__(self, value: Any, keys: Any = None, carry: Any = None) -> Encoded:
        x = self._input(value)
        new = self.step(x, self._state(carry, x))
        return Encoded(new[0] if isinstance(new, tuple) else new, None, new)

    def step(self, x: Array, state: Any) -> Any:
        """Return the next state for `x` `(*batch, dim)` and a whole state."""
        h, c = state if self.choice.cell == "lstm" else (state, state)
        from_x = x @ self.weight_ih[...].T + self.bias_ih[...]
        from_h = h @ self.weight_hh[...].T + self.bias_hh[...]
        if self.choice.cell == "rnn":
            return jnp.tanh(from_x + from_h)
        if self.choice.cell == "gru":
            (r, u, n), (rh, uh, nh) = jnp.split(from_x, 3, -1), jnp.split(from_h, 3, -1)
            reset, update = jax.nn.sigmoid(r + rh), jax.nn.sigmoid(u + uh)
            return (1 - update) * jnp.tanh(n + reset * nh) + update * h
        i, f, g, o = jnp.split(from_x + from_h, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    def initial_carry(self, batch: tuple[int, ...]) -> Any:
        """Return the state before the first step: zeros."""
        zeros = jnp.zeros((*batch, self.choice.hidden), self.dtype)
        return (zeros, zeros) if self.choice.cell == "lstm" else zeros

    def sample(self, num: int, draws: np.random.RandomState) -> Array:
        """Return hidden states `(num, hidden)` after some steps of random values."""
        xs = draws.standard_normal((_SAMPLE_STEPS, num, self.choice.dim)) * self.choice.std
        state = None
        for x in xs:
            state = self(x.astype(self.dtype), carry=state).carry
        return state[0] if isinstance(state, tuple) else state  # type: ignore[return-value]

    def _input(self, value: Any) -> Array:
        dim = self.choice.dim
        wanted = f"a floating array (*batch, {dim}) for {self.choice}"
        is_array = isinstance(value, (Array, np.ndarray))
        if not is_array or not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(message("condition", shown(value), wanted))
        if value.ndim == 0 or value.shape[-1] != dim:
            raise ValueError(message("condition", shown(value), wanted))
        return jnp.asarray(value, self.dtype)

    def _state(self, state: Any, x: Array) -> Any:
        """Return the state, checked, or zeros of the input's batch."""
        shape = (*x.shape[:-1], self.choice.hidden)
        paired = self.choice.cell == "lstm"
        if state is None:
            return self.initial_carry(x.shape[:-1])
        parts = tuple(state) if paired and isinstance(state, (tuple, list)) else (state,)
        kind = "a pair of arrays" if paired else "an array"
        wanted = f"None, or {kind} {shape} as the call before returned it"
        way_out = "Start a new batch with carry=None."
        arrays = all(isinstance(p, (Array, np.ndarray)) for p in parts)
        if len(parts) != 1 + paired or not arrays:
            raise TypeError(message("carry", shown(state), wanted, way_out))
        for part in parts:
            if part.shape != shape:
                raise ValueError(message("carry", shown(part), wanted, way_out))
        carry_parts = tuple(jnp.asarray(part, x.dtype) for part in parts)
        return carry_parts if paired else carry_parts[0]
