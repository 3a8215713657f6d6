"""Checks of what a user gives to run a target with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from flax import nnx

from hyperloom._core.backend import checks
from hyperloom._core.backend.factors import Factors, dense, rows_first
from hyperloom._core.errors import a_mapping, did_you_mean, message, shown
from hyperloom._core.plan.plan import Plan
from hyperloom.jax._generate.generator import Generator
from hyperloom.jax._run.pairing import flat_batch
from hyperloom.jax._run.runner import Runner
from hyperloom.jax._target.arrays import ARRAY, is_array, is_key
from hyperloom.jax._weights.weights import factored


def as_rngs(rngs: Any) -> nnx.Rngs | None:
    """Return random streams for a call, from streams, a key, or a dict of keys."""
    if rngs is None or isinstance(rngs, nnx.Rngs):
        return rngs
    way_out, wanted = (
        "Make one from a seed: jax.random.key(0).",
        "an nnx.Rngs, a key or a dict of keys",
    )
    named = rngs if isinstance(rngs, Mapping) else {"default": rngs}
    if not named or not all(isinstance(n, str) and is_key(key) for n, key in named.items()):
        wanted = "an nnx.Rngs, a key or a dict of keys"
        raise TypeError(message("rngs", shown(rngs), wanted, way_out))
    return nnx.Rngs(**named)


def check_state(
    buffers: Mapping[str, Any],
    state: Mapping[str, Any] | None,
    batch: tuple[int, ...],
    anew: Collection[str] = (),
) -> dict[str, Any]:
    """Check given state and return it.

    Args:
        buffers: The target's state.
        state: What is given: what a call has returned, or a part of it.
        batch: The batch of conditions.
        anew: What calls have returned beside the state.
    """
    wanted = "a dict from names to arrays, as a call with mutable=True returns it"
    state = a_mapping("state", {} if state is None else state, wanted)
    for name, value in state.items():
        if name in anew:
            continue
        if name not in buffers:
            way_out = did_you_mean(name, buffers) if buffers else "The target has no state."
            got = f"the name {name!r}"
            raise ValueError(message("state", got, "names of the target's state", way_out))
        wanted = (*batch, *np.shape(buffers[name]))
        if not is_array(value) or tuple(value.shape) != wanted:
            got = f"shape {tuple(value.shape)}" if is_array(value) else repr(value)
            raise ValueError(message(f"state[{name!r}]", got, f"an array of shape {wanted}"))
    return dict(state)


def check_params(plan: Plan, params: Mapping[str, Any]) -> tuple[int, ...]:
    """Check given tensors against the target; return their batch dimensions."""

    def check(name: str, value: Any) -> None:
        dtype = plan.spec[name].dtype
        if str(value.dtype) != dtype:
            way_out = f"Convert it: .astype({dtype!r})."
            raise TypeError(message(f"params[{name!r}]", f"{value.dtype}", dtype, way_out))

    return checks.check_params(plan, params, ARRAY, check)


def with_weights(
    generator: Generator, runner: Runner, params: Mapping[str, Any], batch: tuple[int, ...]
) -> dict[str, Any]:
    """Return given arrays, `(B, *shape)`, with a weight object in the place of factors.

    Args:
        generator: What generates.
        runner: What runs.
        params: Checked arrays, and factors, which change the target's own tensor.
        batch: Their batch; kept tensors have none.
    """
    plan, bases, kept = generator.plan, generator.numbers()[1], runner.kept_tensors()
    weights = {}
    for name, value in params.items():
        if not isinstance(value, Factors):
            weights[name] = value if name in kept else flat_batch(value, batch)
            continue
        tensor, base = plan.spec[name], bases.get(name, kept.get(name))
        if batch:
            u, v = (flat_batch(side, batch) for side in rows_first(value, tensor))
            sizes = tensor.shape, tensor.dtype, value.scaling * u, v, tensor.matrix_split
            weights[name] = factored(name, *sizes, base)
        else:
            weights[name] = dense(value, tensor, base).astype(tensor.dtype)
    return weights
