"""What learned numbers start as: draws, and the target's own values.

Drawn by NumPy, from keys: to draw in JAX, each shape would be compiled once, which takes seconds
for a hypernetwork of some layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.choices.layouts import Segment
from hyperloom._core.errors import message
from hyperloom.jax._target.variables import is_traced


class Start:
    """Where the start of learned numbers comes from.

    Args:
        rngs: Random streams; `params` is used, a key for each array.
        dtype: Dtype of the learned numbers.
        native: The target's own values by name.
    """

    def __init__(self, rngs: nnx.Rngs, dtype: Any, native: Mapping[str, Any] | None = None) -> None:
        self.rngs, self.dtype, self.native = rngs, jnp.dtype(dtype), native or {}

    def _draws(self) -> np.random.Generator:
        key = self.rngs.params()
        if is_traced(key):
            got, wanted = "a key that is being traced", "a key with a value"
            way_out = "Make the hypernetwork outside of jit, eval_shape and the like."
            raise TypeError(message("rngs", got, wanted, way_out))
        return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())

    def array(self, values: Any) -> Array:
        """Return values as an array to learn."""
        return jnp.asarray(np.asarray(values, self.dtype))

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Return zeros."""
        return self.array(np.zeros(shape))

    def ones(self, shape: tuple[int, ...]) -> Array:
        """Return ones."""
        return self.array(np.ones(shape))

    def uniform(self, shape: tuple[int, ...], std: float) -> np.ndarray:
        """Return uniform draws of mean 0 and standard deviation `std`."""
        bound = math.sqrt(3) * std
        if not bound:
            return np.zeros(shape)
        return self._draws().uniform(-bound, bound, shape)

    def unit_rows(self, shape: tuple[int, ...], factor: float = 1.0) -> Array:
        """Return normal draws whose last axis has root mean square `factor` exactly."""
        draw = self._draws().standard_normal(shape)
        if not draw.size:  # ids without vectors
            return self.array(draw)
        return self.array(factor * draw / np.sqrt(np.mean(draw**2, axis=-1, keepdims=True)))

    def mean(self, part: Segment) -> np.ndarray:
        """Return what the rows of a segment start around."""
        if part.native is None:
            return np.asarray(part.mean)
        return np.asarray(self.native[part.native], np.float64).reshape(-1)
