"""What the demo asks of JAX: models from a seed, arrays in and out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import hyperloom.jax as hl
from hyperloom.recipes.maml import jax as ours
from hyperloom.recipes.maml.by_hand_jax import HandGenerated, OneStart, copied, run
from hyperloom.recipes.maml.data import Tasks
from hyperloom.recipes.maml.jax import RATE, step_of

__all__ = ["HAND", "OURS", "RATE", "hl", "step_of"]

OURS = (ours.Generated, ours.adapted)
HAND = (HandGenerated, run, ours.adapted)
copy_of = nnx.clone


def models(seed: int) -> dict[str, Any]:
    """Return what is trained, from a seed."""
    rngs = nnx.Rngs(seed)
    generated = ours.Generated(rngs)
    return {"generated": generated, "by hand": copied(generated), "one start": OneStart(rngs)}


def given(tasks: Tasks) -> tuple[Array, Array, Array]:
    """Return the points of tasks, and the inputs and values to be judged by."""
    return jnp.asarray(tasks.support), jnp.asarray(tasks.query_x), jnp.asarray(tasks.query_y)


def difference(one: Any, other: Any, tasks: Tasks) -> float:
    """Return how far the values of two models differ at most, after a step."""
    values = [values_at(model, tasks, tasks.query_x, 1) for model in (one, other)]
    return float(np.abs(values[0] - values[1]).max())


def size_of(model: Any) -> int:
    """Return how many numbers are learned."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def values_at(model: Any, tasks: Tasks, x: np.ndarray, steps: int) -> np.ndarray:
    """Return the values at `x` `(B, n, 1)` after steps on the points of tasks."""
    support = jnp.asarray(tasks.support)
    return np.asarray(ours.values_after(model, support, jnp.asarray(x), steps))


def error_after(model: Any, support: Array, x: Array, y: Array, steps: int) -> np.ndarray:
    """Return the squared error of each task after steps, `(B,)`."""
    return np.asarray(jnp.square(ours.values_after(model, support, x, steps) - y).mean((1, 2)))
