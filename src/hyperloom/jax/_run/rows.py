"""Rows of one batch that belong to many conditions, a different number of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hyperloom._core.backend.rows import check_rows, groups_of_equal_counts
from hyperloom._core.errors import message
from hyperloom.jax._arrays import is_key
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.generator import Generator
from hyperloom.jax._run.call import Call
from hyperloom.jax._run.pairing import PairedInputs, as_array
from hyperloom.jax._run.route import route
from hyperloom.jax._run.run import Asked, maker, split_keys, store, travel
from hyperloom.jax._run.runner import Runner


def forward_rows(
    generator: Generator, runner: Runner, condition: Any, carry: Any, asked: Asked, rows: Any
) -> tuple[Any, Any]:
    """Generate and run on rows; return what the call asked for, and the conditions' next state."""
    encoded = generator.encode(condition, asked.streams, carry)
    return run_rows(generator, runner, encoded, asked, rows), encoded.carry


def run_rows(
    generator: Generator, runner: Runner, encoded: Encoded, asked: Asked, rows: Any
) -> Any:
    """Run the target on rows of several conditions.

    Conditions with equally many rows are one batch, so that the meaning is that of a call for each
    condition with its rows, whatever the target does among them; XLA makes one product of it.

    Args:
        generator: The generator.
        runner: The runner.
        encoded: The conditions, `(B,)`.
        asked: The call; its arrays are `(R, ...)`, or `(K R, ...)` with each row K times in place.
        rows: The condition of each row, `(R,)`; known outside of `jit`.

    Raises:
        TypeError: Rows that are no integers, or are traced.
        ValueError: Rows beside one condition or a state, or inputs that do not pair with them.
        IndexError: A row of a condition that there is not.
    """
    index = _expanded(_known(rows, encoded), asked)
    if asked.mutable or asked.state:
        got = "them beside state= or mutable="
        raise ValueError(message("rows", got, "a call whose target keeps no state"))
    inputs = PairedInputs.of((len(index),), asked.inputs, asked.in_axes, asked.kwargs)
    keys = runner.target.keys(asked.streams, asked.method)
    whole = Call(encoded.batch, inputs)
    keys = split_keys(keys, whole, runner.execution.randomness)
    outputs, places, notes = [], [], None
    for conditions, where in groups_of_equal_counts(index):
        paired = [jnp.asarray(a)[where] for a in inputs.paired]
        keys_of_rows = {name: key[conditions] for name, key in keys.items()}
        call = Call(conditions.shape, inputs, method=asked.method)
        call = call.with_slices((paired, keys_of_rows, {}), conditions.shape)
        ids = None if encoded.ids is None else encoded.ids[conditions]
        part = Encoded(encoded.vector[conditions], ids)
        way = route(generator.plan, runner, call, part.vector.dtype.itemsize)
        make = maker(generator, runner, way, call, generator.trunk_key(asked.streams))
        (out, _), notes = travel(runner, way, make, part, call)
        outputs.append(jax.tree.map(lambda a, shape=where.shape: _rows_of(a, shape), out))
        places.append(where.reshape(-1))
    if notes is None:
        raise ValueError(message("rows", "none", "one row or more"))
    back = np.argsort(np.concatenate(places))
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts)[back], *outputs)
    return store(runner, asked, (joined, {}), notes)


def _known(rows: Any, encoded: Encoded) -> np.ndarray:
    """Return the condition of each row as numbers."""
    if len(encoded.batch) != 1:
        got = f"rows beside conditions {encoded.batch}"
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
    check_rows(index, encoded.batch[0])
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
