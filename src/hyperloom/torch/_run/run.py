"""A call on its way: what the weights are made of, the run, and what becomes of the buffers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._generate.generator import (
    Generator,
    PartGenerator,
    distinct,
    tensors_of,
)
from hyperloom.torch._run.alone import ENDS_THE_CALL
from hyperloom.torch._run.attempt import attempt, quietly, run_instead
from hyperloom.torch._run.call import Call, Uses, slices
from hyperloom.torch._run.joined import concatenated
from hyperloom.torch._run.kinds import kind_of
from hyperloom.torch._run.loop import same_draws
from hyperloom.torch._run.refusal import name_inputs
from hyperloom.torch._run.route import (
    ROWS,
    Route,
    kind_with_sizes,
    loop_where_repeated,
    on_rows,
    route,
    strategy_of,
    used_kind,
)
from hyperloom.torch._run.row_calls import assembled
from hyperloom.torch._run.rows import run_rows
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._run.unwritten import first_run, handed, refuse_late
from hyperloom.torch._target.buffers import NO_BUFFERS, Buffers
from hyperloom.torch._target.copies import Copies, Draws
from hyperloom.torch._target.functions import NotAtOnceError
from hyperloom.torch._target.objects import unpack
from hyperloom.torch._target.placeholder import Ungenerated
from hyperloom.torch._target.private import inside_transform
from hyperloom.torch._target.writes import versions
from hyperloom.torch._weights.make import weights_of
from hyperloom.torch._weights.rows import Rows
from hyperloom.torch._weights.weights import Dense


def follow(generator: Generator, runner: Runner, way: Route, encoded: Encoded, call: Call) -> Any:
    """Make the weights, run the target with them, and store what it has written."""
    if way.size is not None:
        return _follow_in_parts(generator, runner, way, encoded, call)
    if way.part is not None:
        return _follow_in_part(generator, runner, way, encoded, call)
    # A target without buffers is not asked for them.
    buffers = runner.buffers(encoded.ids, call.batch) if runner.has_buffers else NO_BUFFERS
    if way.asking:
        output = _ask(generator, runner, way, encoded, call, buffers)
    elif way.noting:
        with runner.skeleton.noting() as reads:
            output = make_and_run(generator, runner, way, encoded, call, buffers)
        note_used(generator, runner, call, reads.names)
    else:
        output = make_and_run(generator, runner, way, encoded, call, buffers)
    if runner.has_buffers:
        store(runner, buffers)
    return output


def _ask(
    generator: Generator, runner: Runner, way: Route, encoded: Encoded, call: Call, buffers: Buffers
) -> Any:
    """Run a call, and remember whether every layer has formed its weight."""
    uses, kind = Uses(), kind_with_sizes(generator, runner, encoded, call, False)
    output = make_and_run(generator, runner, way, encoded, call, buffers, uses)
    if uses.way is None and all(choice == "dense" for _, _, choice, _ in uses):
        runner.memory.form(kind)
    elif kind in runner.memory.routes:
        runner.memory.routes[kind] = replace(way, asking=False)
    return output


def _follow_in_part(
    generator: Generator, runner: Runner, way: Route, encoded: Encoded, call: Call
) -> Any:
    """Generate what calls of the kind use; where this one uses more, start again with all."""
    assert way.part is not None
    uses: list[str] = []
    some = PartGenerator(generator, way.part, encoded.vector.device, uses)
    buffers = runner.buffers(encoded.ids, call.batch) if runner.has_buffers else NO_BUFFERS
    draws, trace = Draws(), runner.skeleton.code.watch((call.inputs, call.kwargs))
    output, error = None, None
    try:
        output = make_and_run(some, runner, replace(way, part=None), encoded, call, buffers)
    except Exception as caught:  # the target may catch none of ours; raised again below
        error = caught
    returned = any(isinstance(leaf, Ungenerated) for leaf in tree_leaves(output))
    if not uses and not returned:
        if error is not None:
            raise error
        store(runner, buffers)
        return output
    note_used(generator, runner, call, {tensor.name for tensor in generator.plan.spec})
    draws.restore()
    if trace is not None:
        trace.restore()
    return follow(generator, runner, route(generator, runner, encoded, call), encoded, call)


def note_used(generator: Generator, runner: Runner, call: Call, names: set[str]) -> None:
    """Remember which generated tensors calls of a kind use."""
    generated = frozenset(entry.tensor for entry in generator.plan.entries)
    runner.memory.used[used_kind(runner, call)] = generated & names
    runner.memory.routes.clear()


def make_and_run(
    generator: Generator,
    runner: Runner,
    way: Route,
    encoded: Encoded,
    call: Call,
    buffers: Buffers,
    uses: Uses | None = None,
) -> Any:
    """Make the weights and run the target with them; a condition that repeats is generated once."""
    call.theirs = (encoded.vector,)
    few, index = distinct(generator, encoded) if way.shares else (encoded, None)
    if (index is not None or way.rows_first) and on_rows(generator, runner, way, call):
        call.index = index
        try:
            tensors = make(generator, runner, replace(way, from_parts=True), few, None, uses)
            output = run(runner, replace(way, run=run_rows, guarded=False), *tensors, call, buffers)
        except NotAtOnceError:
            runner.memory.not_on_rows.add(kind_of(runner, call))
        else:
            if uses is not None:
                uses.way = ROWS
            return output
        finally:
            call.index = None
    tensors = make(generator, runner, way, few, index, uses)
    return run(runner, way, *tensors, call, buffers)


def make(
    generator: Generator,
    runner: Runner,
    way: Route,
    few: Encoded,
    index: Tensor | None = None,
    uses: Uses | None = None,
) -> tuple[Any, Mapping[str, Tensor]]:
    """Return what the target is run with: what is generated, and what all conditions share.

    Args:
        generator: What generates.
        runner: What runs.
        way: The way of the call.
        few: The conditions without repetitions.
        index: For every place of the batch its place in `few`, where conditions repeat.
        uses: What wants to know of uses.
    """
    if way.program is not None:
        return way.program.make(generator, few), {}
    kept = runner.kept() if generator.plan.kept else {}
    if isinstance(generator, PartGenerator):
        kept |= generator.left_out
    if way.from_parts:
        weights, shared = weights_of(generator, few.flat(), index, uses)
        for name, way_of_it in runner.ways.items():
            if name in weights and len(weights[name].shape) >= 2:  # a vector has one way
                weights[name] = weights[name].forced(way_of_it)
        return weights, {**kept, **shared}
    tensors = tensors_of(generator, few)
    if index is not None:
        tensors = {name: value.index_select(0, index) for name, value in tensors.items()}
    if uses is None or not few.batch:
        return tensors, kept
    return {name: _told(name, value, runner, uses) for name, value in tensors.items()}, kept


def _told(name: str, value: Tensor, runner: Runner, uses: Uses) -> Dense:
    """Return a tensor as a weight object that tells of its uses."""
    shape = torch.Size(runner.skeleton.spec[name].shape)
    return Dense(name, shape, len(value), value, record=uses)


def run(
    runner: Runner,
    way: Route,
    weights: Mapping[str, Any],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    """Run the target; inputs that it refuses are named, and no write outlives the call."""
    skeleton = runner.skeleton
    try:
        if not way.watched:
            return _run_first(runner, way, weights, shared, call, buffers)
        if not skeleton.code.may_store or way.program is not None or torch.compiler.is_compiling():
            return _run_once(runner, way, weights, shared, call, buffers)
        given = handed(weights, shared)
        before = versions(value for _, value in given)
        output = _run_once(runner, way, weights, shared, call, buffers)
        refuse_late(runner, given, before, call.theirs)
        return output
    except Exception as error:  # raised again, with its input named where it is about one
        name_inputs(error, runner, call)
        raise


def _run_once(
    runner: Runner,
    way: Route,
    weights: Mapping[str, Any],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    if way.guarded:
        return _run_guarded(runner, way, weights, shared, call, buffers)
    return way.run(runner, weights, shared, call, buffers)


def _run_first(
    runner: Runner,
    way: Route,
    weights: Mapping[str, Any],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    """Run a call of a kind that was not seen yet, and watch what it writes."""

    def once(copies: Copies | None) -> Any:
        copied = call if copies is None else call.over(copies)
        return _run_once(runner, way, weights, shared, copied, buffers)

    module, inputs = runner.skeleton.module, (call.inputs, call.kwargs)
    output = first_run(runner, module, inputs, once, lambda _: buffers.forget())
    runner.memory.watched.add(kind_of(runner, call))
    runner.memory.routes.clear()
    return output


def _run_guarded(
    runner: Runner,
    way: Route,
    weights: Mapping[str, Any],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    """Run the target; where it cannot be run so, by the loop."""
    if not way.tried or not (way.checked or inside_transform()):
        return attempt(runner, way, weights, shared, call, buffers)
    # Past `Draws` where there is one generator: every call comes here.
    draws = Draws() if torch.cuda.is_initialized() else torch.get_rng_state()
    try:
        if not way.slow:
            return way.run(runner, weights, shared, call, buffers)
        with quietly():
            return way.run(runner, weights, shared, call, buffers)
    except ENDS_THE_CALL:
        raise
    except Exception as caught:  # whatever it is, the loop says whether it is the target's own
        error = caught
    (
        Draws(draws) if isinstance(draws, Tensor) else draws
    ).restore()  # the loop is to draw what it would have drawn alone
    return run_instead(error, runner, weights, shared, call, buffers)


def store(runner: Runner, buffers: Buffers) -> None:
    """Keep what the target has written into its buffers."""
    if buffers.empty:
        return
    if buffers.lost:
        runner.memory.warn(
            "run: the target updates running statistics that are kept by id, and no condition "
            "was given; they are not kept. Pass it: run(params, ..., condition=ids)."
        )
    elif inside_transform():
        runner.memory.warn(
            "target: it updates its buffers (running statistics) inside a torch.func "
            "transform around the hypernetwork; they are not kept."
        )
    else:
        buffers.store()


def run_encoded(generator: Generator, runner: Runner, encoded: Encoded, call: Call) -> Any:
    """Generate the tensors of encoded conditions, and run the target with them."""
    way = route(generator, runner, encoded, call)
    output = follow(generator, runner, way, encoded, call)
    return output if type(output) is Tensor else unpack(output)


def run_given(
    runner: Runner,
    tensors: Mapping[str, Any],
    kept: Mapping[str, Tensor],
    call: Call,
    ids: Tensor | None,
) -> Any:
    """Run the target with given tensors `(*batch, *shape)`, and `kept` in place of its own.

    For one batch dimension weight objects may stand among the tensors.
    """
    call.theirs = tuple(t for _, t in handed(tensors, {}))
    buffers = runner.buffers(ids, call.batch)
    way = loop_where_repeated(strategy_of(runner, call), runner, ids)
    output = run(runner, way, tensors, {**runner.kept(), **kept}, call, buffers)
    store(runner, buffers)
    return unpack(output)


def _follow_in_parts(
    generator: Generator, runner: Runner, way: Route, encoded: Encoded, call: Call
) -> Any:
    """Send the parts of a call down the road, one after the other."""
    assert way.size is not None
    outputs, sizes = [], []
    with same_draws(runner) as again:
        for conditions, part in slices(encoded, call, way.size):
            again()
            sizes.append(math.prod(part.batch))
            if way.recompute:
                outputs.append(_recomputed(generator, runner, conditions, part))
            else:
                part_way = route(generator, runner, conditions, part, whole=True)
                outputs.append(follow(generator, runner, part_way, conditions, part))
    if call.by is not None:
        return _rows_of_parts(outputs, call, way.size)
    return outputs[0] if len(outputs) == 1 else concatenated(outputs, sizes)


def _rows_of_parts(outputs: list[Any], call: Call, size: int) -> Any:
    """Put the rows that parts of the conditions have returned to their places."""
    assert call.by is not None
    part_of_row = call.by.condition_of_row(torch.device("cpu")) // size
    output = assembled(outputs, Rows.of(-(-call.by.num // size), part_of_row))
    return output if call.ragged is None else call.ragged.back(output)


def _recomputed(generator: Generator, runner: Runner, encoded: Encoded, call: Call) -> Any:
    """Generate and run now, and once more in the backward pass instead of keeping activations.

    The second run starts from what the first has started from: buffers, what the target keeps, and
    inputs that it writes into.
    """
    way = route(generator, runner, encoded, call, whole=True)
    if not way.watched or (way.guarded and not way.tried):
        # The second run would not repeat what a first call does.
        return follow(generator, runner, way, encoded, call)
    buffers = runner.buffers(encoded.ids, call.batch)
    way = route(generator, runner, encoded, call, whole=True)
    if way.guarded and not way.tried:
        # The first call of its kind looks for a way. What it tries in vain a second run would not
        # try again, and autograd counts what is saved: this one keeps its activations.
        output = make_and_run(generator, runner, way, encoded, call, buffers)
        store(runner, buffers)
        return output
    start, first = buffers.copy(), [buffers]
    inputs = (call.inputs, call.kwargs)
    copies, before = Copies(inputs), runner.skeleton.code.watch(inputs)
    again = inputs

    def run_now(given: Copies, buffers: Buffers) -> Any:
        copied = call.over(given)
        way = route(generator, runner, encoded, copied, whole=True)
        return make_and_run(generator, runner, way, encoded, copied, buffers)

    def once(_: Tensor) -> Any:
        if first:
            return run_now(copies, first.pop())
        now = runner.skeleton.code.watch(inputs)
        if before is None or now is None:
            return run_now(Copies(again), start.copy())
        try:
            before.restore()
            return run_now(Copies(again), start.copy())
        finally:
            now.restore()

    output = checkpoint(once, encoded.vector, use_reentrant=False)
    if copies.written():
        again = Copies(inputs).inputs
    copies.give_back()
    store(runner, buffers)
    return output
