"""Running a target on a batch of conditions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hyperloom._cost import Layer
from hyperloom._execution import Auto
from hyperloom._explain import Explanation, used
from hyperloom._plan import Plan
from hyperloom._ways import layer_of
from hyperloom.torch._batch import dims_like, first_paired, narrow_like, pair_check
from hyperloom.torch._choice import some_contract
from hyperloom.torch._conditions import Encoded
from hyperloom.torch._generate import waits_for_gradient
from hyperloom.torch._held import Held
from hyperloom.torch._loop import concatenated, same_draws
from hyperloom.torch._lowered import Chain
from hyperloom.torch._private import inside_transform
from hyperloom.torch._program import Program
from hyperloom.torch._strategy import Chosen, outside
from hyperloom.torch._structured import Dense, Weight
from hyperloom.torch._unique import shared_ids
from hyperloom.torch._weights import Loom

if TYPE_CHECKING:
    from hyperloom.torch._hypernetwork import HyperNetwork

Dims = int | None | tuple[Any, ...]


class Call:
    """The inputs of one call, checked against the batch of conditions.

    Args:
        batch: Dimensions of the batch; `()` for one condition.
        inputs: Positional inputs of the target.
        in_dims: As in `HyperNetwork.forward`.
        kwargs: Keyword inputs of the target.

    Raises:
        ValueError: Inputs that do not pair with the conditions.
    """

    def __init__(
        self, batch: torch.Size, inputs: tuple[Any, ...], in_dims: Dims, kwargs: dict[str, Any]
    ) -> None:
        self.batch, self.inputs, self.kwargs = batch, inputs, kwargs
        if len(inputs) == 1 == len(batch) and not kwargs and type(in_dims) is int and in_dims == 0:
            first = inputs[0]  # the usual call, without the walk through trees
            if isinstance(first, Tensor) and first.ndim and first.shape[0] == batch[0]:
                self.dims, self.kwargs_dims = (0,), {}
                return
        self.dims = dims_like(inputs, in_dims)
        each = isinstance(in_dims, (tuple, list))
        self.kwargs_dims = dims_like(kwargs, 0 if each else in_dims)
        if batch:
            pair_check(inputs, self.dims, kwargs, self.kwargs_dims, batch)

    def narrow(self, start: int, stop: int) -> Call:
        """Return the call for conditions `start .. stop` of a batch with one dimension."""
        made = object.__new__(Call)
        made.batch = torch.Size([stop - start])
        made.dims, made.kwargs_dims = self.dims, self.kwargs_dims
        made.inputs = narrow_like(self.inputs, self.dims, start, stop)
        made.kwargs = narrow_like(self.kwargs, self.kwargs_dims, start, stop)
        return made

    def rows(self) -> int:
        """Guess how many rows each condition has, from the first paired input `(B, *n, I)`."""
        usual = len(self.inputs) == 1 and isinstance(self.inputs[0], Tensor) and self.dims == (0,)
        first = self.inputs[0] if usual else first_paired(self.inputs, self.dims)
        return 1 if first is None else max(1, math.prod(first.shape[len(self.batch) : -1]))

    def chain_input(self) -> Tensor | None:
        """Return the one input `(B, *n, I)` of a chain of layers, if this is such a call."""
        if self.kwargs or len(self.inputs) != 1 or len(self.batch) != 1:
            return None
        x, dim = self.inputs[0], self.dims[0]
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return None
        if dim is None:
            return x.expand(*self.batch, *x.shape) if x.ndim >= 1 else None
        x = x.movedim(dim, 0) if dim else x
        return x if x.ndim >= 2 else None


def slices(encoded: Encoded, call: Call, size: int) -> Iterator[tuple[Encoded, Call]]:
    """Yield the batch of conditions and their inputs in parts of `size`."""
    for start in range(0, max(1, math.prod(call.batch)), size):
        if not call.batch or len(call.batch) > 1:
            yield encoded, call
            return
        stop = min(start + size, call.batch[0])
        ids = None if encoded.ids is None else encoded.ids[start:stop]
        yield Encoded(encoded.vector[start:stop], ids), call.narrow(start, stop)


CHAIN = "the target is a chain of simple layers, run with the conditions in front"


@dataclass
class Notes:
    """What `explain()` wants to know of a run."""

    chosen: Chosen = field(default_factory=Chosen)
    uses: list[tuple[str, str, str, Layer | None]] = field(default_factory=list)

    def __call__(self, weight: Weight, operation: str, choice: str, layer: Layer | None) -> None:
        self.uses.append((weight.name, operation, choice, layer))


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
            "was given; they are not kept. Pass it: run(params, ..., of=ids).",
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


def explain(
    hnet: HyperNetwork, encoded: Encoded, call: Call, program: Program | None
) -> Explanation:
    """Run once, and note what was chosen; a program has chosen already."""
    notes = Notes()
    found = notes.uses
    if program is None:
        run_part(hnet, encoded, call, Held(hnet, encoded.ids, call.batch), notes)
    else:
        notes.chosen.strategy, notes.chosen.reason = "chain", CHAIN
        found += [(name, "linear", way, layer) for name, way, layer in program.ways]
    seen = {name for name, *_ in found}
    found += [(e.tensor, "other", "dense", None) for e in hnet.plan.entries if e.tensor not in seen]
    num, single = math.prod(call.batch), not call.batch
    size, device = encoded.vector.element_size(), encoded.vector.device.type
    entries = {entry.tensor: entry for entry in hnet.plan.entries}
    uses = []
    for name, operation, choice, layer in found:
        if layer is None and choice == "dense" and not single:
            layer = layer_of(hnet.plan, entries[name], num, call.rows(), torch.is_grad_enabled())
        spec = hnet.plan.spec[name]
        uses.append(used(spec, operation, choice, layer, size, device, single))
    how = notes.chosen
    return Explanation(how.strategy, how.reason, 1 if single else num, tuple(uses), how.slow)


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
    if chain is None or not isinstance(execution.batch, Auto):
        return None, None
    if execution.same_draws and hnet._skeleton.module.training:
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
