"""Hypernetworks whose condition carries a state: many steps in one call."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hyperloom._core.backend.checks import num_steps
from hyperloom._core.backend.views import need_carry
from hyperloom._core.errors import message
from hyperloom.jax._arrays import ARRAY
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._run.checks import as_rngs
from hyperloom.jax._run.run import Asked, run_encoded
from hyperloom.jax._tools.given import a_hypernetwork


def unroll(
    hnet: HyperNetwork, *inputs: Any, condition: Any, carry: Any = None, **kwargs: Any
) -> tuple[Any, Any]:
    """Run a hypernetwork whose condition carries a state over `T` steps, time first.

    The condition is run step by step, by `jax.lax.scan`, so that what is compiled does not grow
    with `T`; all `T * B` generated networks are then run in one batch, with the result that `T`
    calls would give. For targets that need their own output of the step before, put a call into
    a scan of your own.

    Args:
        hnet: A hypernetwork with a `Recurrent` condition, or another that carries a state.
        *inputs: The target's inputs; every array `(T, *batch, ...)`.
        condition: Raw values of all steps; every array `(T, *batch, ...)`. What is no array (an
            int as an id) is the same at every step. Noise is given as an array too.
        carry: The state before the first step, as a call returns it; `None` for the start.
        **kwargs: `rngs`, `method`, and the target's keyword arguments; every array in them
            `(T, *batch, ...)`.

    Returns:
        What the target returns, with `(T, *batch)` in front of every array, and the state after
        the last step.

    Raises:
        TypeError: A condition without a state.
        ValueError: Arrays that differ in `T`, none at all, or what a call refuses.
    """
    generator = a_hypernetwork("hnet", hnet).generator
    need_carry(generator.plan)
    leaves, tree = jax.tree.flatten(condition)
    moving = [isinstance(v, (Array, np.ndarray)) and v.ndim > 0 for v in leaves]
    steps = num_steps([len(v) for v, m in zip(leaves, moving, strict=True) if m], ARRAY)

    def encode(now: list[Any], carry: Any) -> Encoded:
        given = iter(now)
        values = [next(given) if m else v for v, m in zip(leaves, moving, strict=True)]
        return generator.encode(jax.tree.unflatten(tree, values), None, carry)

    def step(carry: Any, now: list[Any]) -> tuple[Any, tuple[Array, Array | None]]:
        made = encode(now, carry)
        return made.carry, (made.vector, made.ids)

    xs = [jnp.asarray(v) for v, m in zip(leaves, moving, strict=True) if m]
    # The first step by itself: it tells what the state looks like.
    first = encode([x[0] for x in xs], carry)
    last, rest = jax.lax.scan(step, first.carry, [x[1:] for x in xs])
    made = (first.vector, first.ids)
    vector, ids = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), made, rest)
    front = (steps, *first.batch)

    def join(value: Any) -> Any:
        if not isinstance(value, (Array, np.ndarray)):
            return value
        if value.shape[: len(front)] != front:
            wanted = f"(T, *batch) = {front} in front, as the condition has"
            raise ValueError(message("inputs", f"shape {tuple(value.shape)}", wanted))
        return value.reshape(-1, *value.shape[len(front) :])

    streams, method = as_rngs(kwargs.pop("rngs", None)), kwargs.pop("method", None)
    given, named = jax.tree.map(join, inputs), jax.tree.map(join, kwargs)
    flat = None if ids is None else ids.reshape(-1)
    encoded = Encoded(vector.reshape(-1, vector.shape[-1]), flat)
    asked = Asked(given, 0, named, streams, method=method)
    out = run_encoded(generator, hnet.runner, encoded, asked)
    split = lambda v: v.reshape(*front, *v.shape[1:])  # noqa: E731
    return jax.tree.map(split, out), last
