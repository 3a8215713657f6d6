"""Hypernetworks whose condition carries a state: many steps in one call."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hyperloom._core.backend import protocol
from hyperloom._core.backend.checks import num_steps
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.views import need_carry
from hyperloom._core.errors import message
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._run.call import Asked
from hyperloom.jax._run.checks import as_rngs
from hyperloom.jax._run.run import run_encoded
from hyperloom.jax._target.arrays import ARRAY
from hyperloom.jax._tools.given import a_hypernetwork


@completes(protocol.Backend.unroll)
def unroll(
    hnet: HyperNetwork, *inputs: Any, condition: Any, carry: Any = None, **kwargs: Any
) -> tuple[Any, Any]:
    """The steps are run by `jax.lax.scan`, so that what is compiled does not grow with `T`.

    Args:
        condition: Raw values of all steps; every array `(T, *batch, ...)`. What is no array (an
            int as an id) is the same at every step. Noise is given as an array too.
        **kwargs: `rngs`, `method`, and the target's keyword arguments; every array in them
            `(T, *batch, ...)`.
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

    def step(carry: Any, now: list[Any]) -> tuple[Any, Encoded]:
        encoded = encode(now, carry)
        return encoded.carry, encoded.each(lambda value: value)

    xs = [jnp.asarray(v) for v, m in zip(leaves, moving, strict=True) if m]
    # The first step by itself: it tells what the state looks like.
    first = encode([x[0] for x in xs], carry)
    last, rest = jax.lax.scan(step, first.carry, [x[1:] for x in xs])
    first_step = first.each(lambda value: value)
    every = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first_step, rest)
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
    asked = Asked(given, 0, named, streams, method=method)
    out = run_encoded(generator, hnet.runner, every.flat(), asked)
    split = lambda v: v.reshape(*front, *v.shape[1:])  # noqa: E731
    return jax.tree.map(split, out), last
