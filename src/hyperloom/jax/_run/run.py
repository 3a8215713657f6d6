"""The road of a call: encode, route, make, run, store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hyperloom._core.backend.factors import Factors
from hyperloom._core.choices.execution import SlowWarning
from hyperloom._core.errors import message
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.generator import Generator
from hyperloom.jax._generate.norms import training
from hyperloom.jax._run.call import Asked, Call
from hyperloom.jax._run.checks import check_params, check_state, with_weights
from hyperloom.jax._run.mapped import whole_on_each
from hyperloom.jax._run.pairing import flat_batch, unflat_batch
from hyperloom.jax._run.route import Route, route
from hyperloom.jax._run.rows import Rows, calls_on_rows, on_rows
from hyperloom.jax._run.runner import Runner
from hyperloom.jax._run.strategies import STRATEGIES, Result, Target
from hyperloom.jax._target.adaptor import Notes
from hyperloom.jax._target.refusal import naming_inputs
from hyperloom.jax._weights.choose import Record
from hyperloom.jax._weights.make import make_weights

# `make(source, part)`: weights with a slice for each condition, and tensors that all share.
# `source` has a slice for each condition; `part` counts the parts that a batch is run in.
Make = Callable[[Any, Array], tuple[Mapping[str, Any], Mapping[str, Array]]]


def forward(
    generator: Generator, runner: Runner, condition: Any, carry: Any, asked: Asked
) -> tuple[Any, Any]:
    """Generate and run; return what the call asked for, and the condition's next state."""
    encoded = generator.encode(condition, asked.streams, carry)
    return run_encoded(generator, runner, encoded, asked), encoded.carry


def run_encoded(generator: Generator, runner: Runner, encoded: Encoded, asked: Asked) -> Any:
    """Generate and run for conditions that are encoded already."""
    calls, key = calls_of(runner, encoded.batch, asked), generator.trunk_key(asked.streams)
    with naming_inputs(generator.plan.spec.name, asked.inputs, asked.kwargs):
        result, notes = make_and_run(generator, runner, encoded, calls, key)
    return store(runner, asked, result, notes)


def calls_of(runner: Runner, batch: tuple[int, ...], asked: Asked) -> Call | list[Rows]:
    """Return what is to be run: one call, or those of rows."""
    return asked.of(runner, batch) if asked.rows is None else calls_on_rows(runner, batch, asked)


def make_and_run(
    generator: Generator,
    runner: Runner,
    encoded: Encoded,
    calls: Call | list[Rows],
    key: Array | None,
    record: Record | None = None,
) -> tuple[Result, Notes]:
    """Generate and run, and store nothing.

    Args:
        generator: The generator.
        runner: The runner.
        encoded: The conditions.
        calls: What `calls_of` returned.
        key: For dropout in the trunk.
        record: Who is told how generated tensors are used.
    """

    def part(encoded: Encoded, call: Call) -> tuple[Result, Notes]:
        way = route(generator.plan, runner, call, encoded.vector.dtype.itemsize)
        if record is not None:  # so that layers tell their rows; where none gains, all form weights
            way = replace(way, as_objects=way.strategy == "vmap")
        make = maker(generator, runner, way, call, key)
        return travel(runner, way, make, encoded, call, record)

    if isinstance(calls, Call):
        return part(flat_encoded(encoded), calls)
    return on_rows(calls, lambda places, call: part(encoded.take(places), call))


def run_given(generator: Generator, runner: Runner, params: Mapping[str, Any], asked: Asked) -> Any:
    """Run with tensors that are given, or factors in their place."""
    plan = generator.plan
    batch = check_params(plan, params)
    call = asked.of(runner, batch)
    way = route(plan, runner, call, None)
    given = with_weights(generator, runner, params, batch)
    own = {n for n in plan.kept if n in params and not isinstance(params[n], Factors)}
    kept = {name: given[name] for name in own}
    source = {name: value for name, value in given.items() if name not in own}
    with naming_inputs(plan.spec.name, asked.inputs, asked.kwargs):
        result, notes = travel(runner, way, lambda source, _: (source, kept), source, call)
    return store(runner, asked, result, notes)


def instantiate(
    runner: Runner, tensors: Mapping[str, Array], state: Mapping[str, Array] | None
) -> Any:
    """Return a module of the target's class that holds the tensors of one condition."""
    held = runner.target.state()
    held.update(check_state(held, state, ()))
    return runner.target.build({**runner.kept_tensors(), **tensors}, held)


def maker(generator: Generator, runner: Runner, way: Route, call: Call, key: Array | None) -> Make:
    """Return the function that makes what the target is run with.

    Args:
        generator: The generator.
        runner: The runner.
        way: The way of the call.
        call: The call.
        key: For dropout in the trunk.

    Raises:
        ValueError: A batch in parts whose trunk's batch norm takes statistics of the whole.
    """
    if (way.at_once is not None or way.recompute) and training(generator.trunks):
        # In parts it would see each part by itself; run again it would count the batch twice.
        way_out = "Use norm='rms' or 'layer', or call hnet.eval()."
        got = f"{runner.execution} with a trunk whose batch norm is training"
        raise ValueError(message("execution", got, "all conditions of a batch at once", way_out))

    def make(encoded: Encoded, part: Array) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        key_of_part = None if key is None else jax.random.fold_in(key, part)
        return make_weights(generator, encoded, key_of_part, way.as_objects, way.ways)

    return make


def travel(
    runner: Runner, way: Route, make: Make, source: Any, call: Call, record: Record | None = None
) -> tuple[Result, Notes]:
    """Make the weights and run the target, in as many parts as the way says.

    Returns:
        What the target returns and its state after the call, `(*batch, ...)` each; and what was
        seen of its state and streams.
    """
    notes = Notes()

    def part(num: int, source: Any, slices: Any, index: Array) -> Result:
        batch = (num,) if call.batch else ()
        weights, shared = make(source, index)
        target = Target(runner, {**runner.kept_tensors(), **shared}, notes, record)
        return _run(way, target, weights, call.with_slices(slices, batch))

    def run(num: int) -> Callable[..., Result]:
        function = partial(part, num)
        return jax.checkpoint(function) if way.recompute else function

    slices = (source, call.slices())
    if way.at_once is None:
        result = run(call.num)(*slices, jnp.zeros((), int))
    else:
        in_parts = partial(_in_parts, run, num=call.num, size=way.at_once)
        result = whole_on_each(in_parts, slices)
    return jax.tree.map(lambda a: unflat_batch(a, call.batch), result), notes


def _run(way: Route, target: Target, weights: Mapping[str, Any], call: Call) -> Result:
    """Run the target the way that was decided; where JAX cannot batch it, in a loop."""
    memory, may_loop = target.runner.memory, target.runner.execution.strategy == "auto"
    try:
        return STRATEGIES[way.strategy](target, weights, call)
    except NotImplementedError as error:  # what JAX raises where a primitive has no batching rule
        if way.strategy != "vmap" or not may_loop:
            raise
        why = str(error).partition("\n")[0]
        memory.loops[call.kind()] = f"JAX cannot run the target for all conditions at once: {why}"
        memory.warn(f"target: run on one condition after the other, as {why}", SlowWarning)
    return STRATEGIES["loop"](target, weights, call)


def _in_parts(run: Callable[[int], Callable[..., Result]], slices: Any, num: int, size: int) -> Any:
    """Run `size` conditions at a time, one part after the other, and join what they return."""
    full = num // size
    front = jax.tree.map(lambda a: a[: full * size].reshape(full, size, *a.shape[1:]), slices)
    outputs = jax.lax.map(lambda x: run(size)(*x[0], x[1]), (front, jnp.arange(full)))
    outputs = jax.tree.map(lambda a: a.reshape(full * size, *a.shape[2:]), outputs)
    if full * size == num:
        return outputs
    rest = jax.tree.map(lambda a: a[full * size :], slices)
    last = run(num - full * size)(*rest, jnp.asarray(full))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outputs, last)


def store(runner: Runner, asked: Asked, result: Result, notes: Notes) -> Any:
    """Let streams that were used go on; return what the call asked for.

    It warns once that state of the target is not kept.
    """
    out, left = result
    runner.target.advance(notes.used, asked.streams)
    if notes.captured:
        runner.target.keep({name: left.pop(name) for name in notes.captured})
    if asked.mutable:
        runner.memory.anew |= notes.anew
        return out, left
    if notes.written:
        runner.memory.warn(
            f"target: it updates its state, {sorted(notes.written)[0]!r} first, which is not "
            "kept. Call with mutable=True to get the state of each condition, or use eval()."
        )
    return out


def flat_encoded(encoded: Encoded) -> Encoded:
    """Return conditions `(*batch,)` as `(B,)`, without their next state."""
    batch = encoded.batch
    return encoded.each(lambda value: flat_batch(value, batch))
