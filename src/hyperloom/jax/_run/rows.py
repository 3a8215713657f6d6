"""Rows of one batch that belong to many conditions, a different number of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hyperloom._core.backend.rows import check_rows, groups_of_equal_counts
from hyperloom._core.errors import message
from hyperloom.jax._run.call import Asked, Call, split_keys
from hyperloom.jax._run.pairing import PairedInputs, as_array
from hyperloom.jax._run.runner import Runner
from hyperloom.jax._run.strategies import Result
from hyperloom.jax._target.adaptor import Notes
from hyperloom.jax._target.arrays import is_key

# Conditions `(K,)` with equally many rows, the places of these `(K, N)`, and their call.
Rows = tuple[np.ndarray, np.ndarray, Call]
# `part(conditions, call)`: what the target returns for some of the conditions, `(K, N, ...)`.
Part = Callable[[np.ndarray, Call], tuple[Result, Notes]]


def on_rows(calls: Sequence[Rows], part: Part) -> tuple[Result, Notes]:
    """Run the target on rows of several conditions.

    Conditions with equally many rows are one batch, so that the meaning is that of a call for each
    condition with its rows, whatever the target does among them; XLA makes one product of it.

    Args:
        calls: What `calls_on_rows` returned.
        part: Runs some of the conditions.
    """
    outputs, places, notes = [], [], Notes()
    for conditions, where, call in calls:
        (out, _), notes = part(conditions, call)
        outputs.append(jax.tree.map(lambda a, shape=where.shape: _rows_of(a, shape), out))
        places.append(where.reshape(-1))
    back = np.argsort(np.concatenate(places))
    return (jax.tree.map(lambda *parts: jnp.concatenate(parts)[back], *outputs), {}), notes


def calls_on_rows(runner: Runner, batch: tuple[int, ...], asked: Asked) -> list[Rows]:
    """Return a call for all conditions that have equally many rows, and where these are.

    Args:
        runner: The runner.
        batch: The batch of conditions, `(B,)`.
        asked: The call; its arrays are `(R, ...)`, or `(K R, ...)` with each row K times in place.

    Raises:
        TypeError: Rows that are no integers, or are traced.
        ValueError: Rows beside one condition or a state, or inputs that do not pair with them.
        IndexError: A number that is not the place of a condition.
    """
    if asked.mutable or asked.state:
        got = "them beside state= or mutable="
        raise ValueError(message("rows", got, "a call whose target keeps no state"))
    index = _expanded(known_rows(asked.rows, batch), asked)
    inputs = PairedInputs.of((len(index),), asked.inputs, asked.in_axes, asked.kwargs)
    keys = runner.target.keys(asked.streams, asked.method)
    keys = split_keys(keys, Call(batch, inputs), runner.execution.randomness)
    calls = []
    for conditions, where in groups_of_equal_counts(index):
        paired = [jnp.asarray(a)[where] for a in inputs.paired]
        keys_of_rows = {name: key[conditions] for name, key in keys.items()}
        call = Call(conditions.shape, inputs, method=asked.method)
        call = call.with_slices((paired, keys_of_rows, {}), conditions.shape)
        calls.append((conditions, where, call))
    return calls


def known_rows(rows: Any, batch: tuple[int, ...]) -> np.ndarray:
    """Return the condition of each row as numbers."""
    if len(batch) != 1:
        got = f"rows beside conditions {batch}"
        raise ValueError(message("rows", got, "a batch of conditions (B,)"))
    if is_key(rows):
        wanted = "ints (R,): for each row the place of its condition"
        raise TypeError(message("rows", rows, wanted))
    try:
        index = np.asarray(rows)
    except jax.errors.TracerArrayConversionError as error:
        way_out = "Give a NumPy array that the jitted function closes over, or a static argument."
        wanted = "numbers that are known while tracing: how many rows a condition has is a shape"
        raise TypeError(message("rows", "a traced array", wanted, way_out)) from error
    check_rows(index, batch[0])
    return index


def _expanded(index: np.ndarray, asked: Asked) -> np.ndarray:
    """Return the condition of each row of the inputs, in which every row may stand K times."""
    arrays = (as_array(leaf) for leaf in jax.tree.leaves((asked.inputs, asked.kwargs)))
    size = next((a.shape[0] for a in arrays if a is not None and a.ndim), len(index))
    times, rest = divmod(size, max(1, len(index)))
    return np.repeat(index, times) if times > 1 and not rest else index


def _rows_of(output: Array, shape: tuple[int, ...]) -> Array:
    """Return an output `(K, N, ...)` as rows."""
    if output.shape[: len(shape)] != shape:
        got = f"an output of shape {output.shape[1:]} for {shape[1]} rows"
        raise ValueError(message("the target's output", got, "an output with a row for each"))
    return output.reshape(-1, *output.shape[2:])
