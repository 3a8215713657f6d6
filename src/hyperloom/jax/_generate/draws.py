"""What learned numbers start as: draws, and the target's own values.

Drawn by NumPy, from keys: to draw in JAX, each shape would be compiled once, which takes seconds
for a hypernetwork of some layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.choices.layouts import Segment
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

    def _draw(self, shape: tuple[int, ...], draw: Callable[[np.random.Generator], Any]) -> Any:
        """Return what `draw` draws; where the key is traced, when it is known, by a callback.

        So the numbers are the same inside `jit`, `vmap` and `eval_shape` as outside.
        """
        key = jax.random.key_data(self.rngs.params())

        def drawn(data: Any) -> np.ndarray:
            return draw(np.random.default_rng(np.asarray(data).ravel().tolist()))

        if not is_traced(key):
            return drawn(key)
        wanted = jax.ShapeDtypeStruct(shape, self.dtype)
        cast = lambda data: drawn(data).astype(self.dtype)  # noqa: E731
        return jax.pure_callback(cast, wanted, key, vmap_method="sequential")

    def array(self, values: Any) -> Array:
        """Return values as an array to learn."""
        if is_traced(values):
            return jnp.asarray(values, self.dtype)
        return jnp.asarray(np.asarray(values, self.dtype))

    def join(self, parts: Sequence[Any], axis: int = 0) -> Array:
        """Return parts one after the other as an array to learn."""
        if any(is_traced(part) for part in parts):
            return self.array(jnp.concatenate(parts, axis))
        return self.array(np.concatenate(parts, axis))

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Return zeros."""
        return self.array(np.zeros(shape))

    def ones(self, shape: tuple[int, ...]) -> Array:
        """Return ones."""
        return self.array(np.ones(shape))

    def uniform(self, shape: tuple[int, ...], std: Any) -> Any:
        """Return uniform draws of mean 0 and standard deviation `std`."""
        bound = math.sqrt(3) * std
        if is_traced(bound):
            return bound * self._draw(shape, lambda draws: draws.uniform(-1, 1, shape))
        if not bound:
            return np.zeros(shape)
        return self._draw(shape, lambda draws: draws.uniform(-bound, bound, shape))

    def unit_rows(self, shape: tuple[int, ...], factor: float = 1.0) -> Array:
        """Return normal draws whose last axis has root mean square `factor` exactly."""

        def rows(draws: np.random.Generator) -> np.ndarray:
            draw = draws.standard_normal(shape)
            if not draw.size:  # ids without vectors
                return draw
            return factor * draw / np.sqrt(np.mean(draw**2, axis=-1, keepdims=True))

        return self.array(self._draw(shape, rows))

    def middle(self, part: Segment, num: int) -> Any:
        """Return what `num` rows of a segment start around, each with draws of its own."""
        matrices = part.orthogonals
        if matrices is not None:
            shape = (num, part.stop - part.start)
            return self._draw(shape, lambda draws: matrices.numbers(draws.standard_normal(shape)))
        if part.native is None:
            return np.asarray(part.mean)
        value = self.native[part.native]
        value = value if is_traced(value) else np.asarray(value, np.float64)
        return value.reshape(-1)
