"""Running a target on a batch of conditions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hyperloom._core.plan.plan import Plan
from hyperloom.torch._generate.conditions import Encoded
from hyperloom.torch._generate.numbers import waits_for_gradient
from hyperloom.torch._generate.sharing import shared_ids
from hyperloom.torch._private import inside_transform
from hyperloom.torch._run.call import CHAIN, Call, Chosen, Notes, slices
from hyperloom.torch._run.chain import Chain
from hyperloom.torch._run.loop import concatenated, same_draws
from hyperloom.torch._run.strategy import outside
from hyperloom.torch._target.buffers import Held
from hyperloom.torch._weights.choose import some_contract
from hyperloom.torch._weights.make import Loom
from hyperloom.torch._weights.weights import Dense, Weight

if TYPE_CHECKING:
    from hyperloom.torch._hypernetwork import HyperNetwork


def execute(hnet: HyperNetwork, encoded: Encoded, call: Call) -> Any:
    """Generate and run, in as many parts as `hnet.execution` asks for."""
    choice = hnet.execution
    at_once = choice.conditions_at_once(hnet.plan, encoded.vector.element_size())
    num = call.batch[0] if len(call.batch) == 1 else 1
    recompute = choice.recompute and torch.is_grad_enabled()
    if (at_once is None or at_once >= num) and not recompute:
        held = Held(hnet, encoded.ids, call.batch)
        made = run_part(hnet, encoded, call, held, None)
        keep_written(hnet, held)
        return made
    outputs = []
    with same_draws(hnet) as again:
        for part, own in slices(encoded, call, at_once or num):
            again()
            held = Held(hnet, part.ids, own.batch)
            outputs.append(
                _run_again(hnet, part, own, held)
                if recompute
                else run_part(hnet, part, own, held, None)
            )
            keep_written(hnet, held)
    return outputs[0] if len(outputs) == 1 else concatenated(outputs)


def keep_written(hnet: HyperNetwork, held: Held) -> None:
    """Keep what the target has written into its buffers."""
    if held.empty:
        return
    if held.lost:
        _warn_once(
            hnet,
            "run: the target updates running statistics that are kept by id, and no condition "
            "was given; they are not kept. Pass it: run(params, ..., condition=ids).",
        )
    elif inside_transform():
        _warn_once(
            hnet,
            "target: it updates its buffers (running statistics) inside a torch.func "
            "transform around the hypernetwork; they are not kept.",
        )
    else:
        held.store()


def _warn_once(hnet: HyperNetwork, text: str) -> None:
    if text not in hnet.__dict__["_warned"]:
        hnet.__dict__["_warned"].add(text)
        warnings.warn(text, stacklevel=outside())


def _run_again(hnet: HyperNetwork, encoded: Encoded, call: Call, held: Held) -> Any:
    """Generate and run now, and once more in the backward pass instead of keeping activations."""
    start, first = held.copy(), [held]

    def run(_: Tensor) -> Any:
        # The second run starts from the same buffers; only what the first writes is stored.
        return run_part(hnet, encoded, call, first.pop() if first else start.copy(), None)

    return checkpoint(run, encoded.vector, use_reentrant=False)


def run_part(
    hnet: HyperNetwork, encoded: Encoded, call: Call, held: Held, notes: Notes | None
) -> Any:
    """Generate and run; layers are evaluated from the weights' parts where that is cheaper."""
    if len(call.batch) != 1:
        return apply_tensors(hnet, hnet._generate(encoded), {}, call, held, notes)
    few, index = shared_ids(hnet, encoded)
    backward = torch.is_grad_enabled()
    sizes = (call.batch[0], call.rows(), few.vector.element_size(), few.vector.device.type)
    if waits_for_gradient(hnet.plan) or not some_contract(hnet, *sizes, backward=backward):
        made = hnet._generate(few)
        if index is not None:
            made = {name: value.index_select(0, index) for name, value in made.items()}
        return apply_tensors(hnet, made, {}, call, held, notes)
    loom = Loom(
        hnet.plan,
        hnet.trunks,
        hnet.heads,
        *hnet._fixed(),
        hnet._skeleton.dtypes,
        few,
        index,
        notes,
    )
    return _apply_weights(hnet, loom.weights(), loom.shared(), call, held, notes)


def apply_tensors(
    hnet: HyperNetwork,
    made: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    call: Call,
    held: Held,
    notes: Notes | None = None,
) -> Any:
    """Run the target with dense tensors `(*batch, *shape)`, and `kept` in place of its own."""
    if call.batch:
        chain, x = _chain(hnet, call) if notes is None else (None, None)
        if chain is not None and x is not None:
            return chain.run({**hnet._kept(), **kept, **made}, x)
        return _apply_weights(hnet, dense_weights(made, hnet.plan, notes), kept, call, held, notes)
    if notes is not None:
        notes.chosen.strategy = "single"
        notes.chosen.reason = "one condition: the target is run as it is"
    return run_single(hnet, {**hnet._kept(), **kept, **made}, call, held)


def _apply_weights(
    hnet: HyperNetwork,
    weights: Mapping[str, Weight],
    shared: Mapping[str, Tensor],
    call: Call,
    held: Held,
    notes: Notes | None,
) -> Any:
    """Run the target with weight objects, and `shared` in place of its own tensors."""
    kept = {**hnet._kept(), **shared}
    chosen = Chosen() if notes is None else notes.chosen
    chain, x = _chain(hnet, call)
    if chain is not None and x is not None:
        chosen.strategy = "chain"
        chosen.reason = CHAIN
        return chain.run({**kept, **weights}, x)
    return hnet._strategist.run(hnet, weights, kept, call, held, chosen)


def _chain(hnet: HyperNetwork, call: Call) -> tuple[Chain | None, Tensor | None]:
    """Return the target as a chain and its input, if this call can be run so."""
    chain, execution = hnet._skeleton.chain, hnet.execution
    if chain is None or execution.strategy != "auto":
        return None, None
    if execution.randomness == "same" and hnet._skeleton.module.training:
        return None, None  # the chain's dropout draws for each condition
    return chain, call.chain_input()


def dense_weights(tensors: Mapping[str, Tensor], plan: Plan, record: Any) -> dict[str, Weight]:
    """Return tensors `(B, *shape)` as weight objects."""
    return {
        name: Dense(name, torch.Size(plan.spec[name].shape), len(value), value, record=record)
        for name, value in tensors.items()
    }


def run_single(hnet: HyperNetwork, tensors: Mapping[str, Tensor], call: Call, held: Held) -> Any:
    """Run the target once, with one condition's tensors."""
    chain, x = hnet._skeleton.chain, call.inputs[0] if len(call.inputs) == 1 else None
    if chain is not None and not call.kwargs and isinstance(x, Tensor) and x.is_floating_point():
        return chain.run(tensors, x)  # the same functions, without the modules around them
    with held.one(0) as buffers:
        return hnet._skeleton.call(tensors, buffers, call.inputs, call.kwargs)
