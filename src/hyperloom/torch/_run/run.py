"""Running a target on a batch of conditions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hyperloom._core.target.spec import TargetSpec
from hyperloom.torch._generate.conditions import Encoded
from hyperloom.torch._generate.generator import Generator, fixed_of, tensors_of
from hyperloom.torch._generate.numbers import waits_for_gradient
from hyperloom.torch._generate.sharing import shared_ids
from hyperloom.torch._private import inside_transform
from hyperloom.torch._run.call import CHAIN, Call, Chosen, Notes, slices
from hyperloom.torch._run.chain import Chain, program_for
from hyperloom.torch._run.loop import concatenated, same_draws
from hyperloom.torch._run.strategy import outside
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._weights.choose import some_contract
from hyperloom.torch._weights.make import Loom
from hyperloom.torch._weights.weights import Dense, Weight

if TYPE_CHECKING:
    from hyperloom.torch._run.runner import Runner


def run_encoded(
    generator: Generator,
    runner: Runner,
    encoded: Encoded,
    inputs: tuple[Any, ...],
    in_dims: Any,
    kwargs: dict[str, Any],
) -> Any:
    """Generate the tensors of encoded conditions, and run the target with them."""
    program = program_for(generator, runner, encoded, inputs, in_dims, kwargs)
    if program is not None:
        return program.run(generator, encoded.vector, inputs[0])
    return execute(generator, runner, encoded, Call(encoded.batch, inputs, in_dims, kwargs))


def execute(generator: Generator, runner: Runner, encoded: Encoded, call: Call) -> Any:
    """Generate and run, in as many parts as `hnet.execution` asks for."""
    choice = runner.execution
    at_once = choice.conditions_at_once(
        generator.plan.output_bytes(1, encoded.vector.element_size())
    )
    num = call.batch[0] if len(call.batch) == 1 else 1
    recompute = choice.recompute and torch.is_grad_enabled()
    if (at_once is None or at_once >= num) and not recompute:
        buffers = runner.buffers(encoded.ids, call.batch)
        made = run_part(generator, runner, encoded, call, buffers, None)
        keep_written(runner, buffers)
        return made
    outputs = []
    with same_draws(runner) as again:
        for part, own in slices(encoded, call, at_once or num):
            again()
            buffers = runner.buffers(part.ids, own.batch)
            outputs.append(
                _run_again(generator, runner, part, own, buffers)
                if recompute
                else run_part(generator, runner, part, own, buffers, None)
            )
            keep_written(runner, buffers)
    return outputs[0] if len(outputs) == 1 else concatenated(outputs)


def keep_written(runner: Runner, buffers: Buffers) -> None:
    """Keep what the target has written into its buffers."""
    if buffers.empty:
        return
    if buffers.lost:
        _warn_once(
            runner,
            "run: the target updates running statistics that are kept by id, and no condition "
            "was given; they are not kept. Pass it: run(params, ..., condition=ids).",
        )
    elif inside_transform():
        _warn_once(
            runner,
            "target: it updates its buffers (running statistics) inside a torch.func "
            "transform around the hypernetwork; they are not kept.",
        )
    else:
        buffers.store()


def _warn_once(runner: Runner, text: str) -> None:
    if text not in runner.memory.warned:
        runner.memory.warned.add(text)
        warnings.warn(text, stacklevel=outside())


def _run_again(
    generator: Generator, runner: Runner, encoded: Encoded, call: Call, buffers: Buffers
) -> Any:
    """Generate and run now, and once more in the backward pass instead of keeping activations."""
    start, first = buffers.copy(), [buffers]

    def run(_: Tensor) -> Any:
        # The second run starts from the same buffers; only what the first writes is stored.
        return run_part(
            generator, runner, encoded, call, first.pop() if first else start.copy(), None
        )

    return checkpoint(run, encoded.vector, use_reentrant=False)


def run_part(
    generator: Generator,
    runner: Runner,
    encoded: Encoded,
    call: Call,
    buffers: Buffers,
    notes: Notes | None,
) -> Any:
    """Generate and run; layers are evaluated from the weights' parts where that is cheaper."""
    if len(call.batch) != 1:
        return apply_tensors(runner, tensors_of(generator, encoded), {}, call, buffers, notes)
    few, index = shared_ids(generator, encoded)
    backward = torch.is_grad_enabled()
    sizes = (call.batch[0], call.rows(), few.vector.element_size(), few.vector.device.type)
    if waits_for_gradient(generator.plan) or not some_contract(
        generator.plan, runner.memory.contracting, *sizes, backward=backward
    ):
        made = tensors_of(generator, few)
        if index is not None:
            made = {name: value.index_select(0, index) for name, value in made.items()}
        return apply_tensors(runner, made, {}, call, buffers, notes)
    loom = Loom(
        generator.plan,
        generator.trunks,
        generator.heads,
        *fixed_of(generator),
        generator.dtypes,
        few,
        index,
        notes,
    )
    return _apply_weights(runner, loom.weights(), loom.shared(), call, buffers, notes)


def apply_tensors(
    runner: Runner,
    made: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
    notes: Notes | None = None,
) -> Any:
    """Run the target with dense tensors `(*batch, *shape)`, and `kept` in place of its own."""
    if call.batch:
        chain, x = _chain(runner, call) if notes is None else (None, None)
        if chain is not None and x is not None:
            return chain.run({**runner.kept(), **kept, **made}, x)
        return _apply_weights(
            runner, dense_weights(made, runner.skeleton.spec, notes), kept, call, buffers, notes
        )
    if notes is not None:
        notes.chosen.strategy = "single"
        notes.chosen.reason = "one condition: the target is run as it is"
    return run_single(runner, {**runner.kept(), **kept, **made}, call, buffers)


def _apply_weights(
    runner: Runner,
    weights: Mapping[str, Weight],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
    notes: Notes | None,
) -> Any:
    """Run the target with weight objects, and `shared` in place of its own tensors."""
    kept = {**runner.kept(), **shared}
    chosen = Chosen() if notes is None else notes.chosen
    chain, x = _chain(runner, call)
    if chain is not None and x is not None:
        chosen.strategy = "chain"
        chosen.reason = CHAIN
        return chain.run({**kept, **weights}, x)
    return runner.memory.strategist.run(runner, weights, kept, call, buffers, chosen)


def _chain(runner: Runner, call: Call) -> tuple[Chain | None, Tensor | None]:
    """Return the target as a chain and its input, if this call can be run so."""
    chain, execution = runner.chain, runner.execution
    if chain is None or execution.strategy != "auto":
        return None, None
    if execution.randomness == "same" and runner.skeleton.module.training:
        return None, None  # the chain's dropout draws for each condition
    return chain, call.chain_input()


def dense_weights(
    tensors: Mapping[str, Tensor], spec: TargetSpec, record: Any
) -> dict[str, Weight]:
    """Return tensors `(B, *shape)` as weight objects."""
    return {
        name: Dense(name, torch.Size(spec[name].shape), len(value), value, record=record)
        for name, value in tensors.items()
    }


def run_single(runner: Runner, tensors: Mapping[str, Tensor], call: Call, buffers: Buffers) -> Any:
    """Run the target once, with one condition's tensors."""
    chain, x = runner.chain, call.inputs[0] if len(call.inputs) == 1 else None
    if chain is not None and not call.kwargs and isinstance(x, Tensor) and x.is_floating_point():
        return chain.run(tensors, x)  # the same functions, without the modules around them
    with buffers.one(0) as written:
        return runner.skeleton.call(tensors, written, call.inputs, call.kwargs)
