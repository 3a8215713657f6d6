"""Running a target on a batch of conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map  # the trees that torch.func.vmap returns
from torch.utils.checkpoint import checkpoint

from hyperloom._cost import Layer
from hyperloom._explain import Explanation, used
from hyperloom._form import Delta, Whole
from hyperloom._layout import Source
from hyperloom._plan import Entry, Plan
from hyperloom.torch._batch import dims_like, first_paired, narrow_like, pair_check
from hyperloom.torch._choice import choose
from hyperloom.torch._conditions import Encoded
from hyperloom.torch._placeholder import Generated
from hyperloom.torch._program import Program
from hyperloom.torch._skeleton import Skeleton
from hyperloom.torch._structured import Dense, Weight
from hyperloom.torch._unique import shared_ids
from hyperloom.torch._weights import Loom, in_one_slot

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


Record = Callable[[Weight, str, str, Layer | None], None]


def execute(hnet: HyperNetwork, encoded: Encoded, call: Call) -> Any:
    """Generate and run, in as many parts as `hnet.execution` asks for."""
    choice = hnet.execution
    at_once = choice.conditions_at_once(hnet.plan, encoded.vector.element_size())
    num = call.batch[0] if len(call.batch) == 1 else 1
    recompute = choice.recompute and torch.is_grad_enabled()
    if (at_once is None or at_once >= num) and not recompute:
        return run_part(hnet, encoded, call, None)
    made = []
    for part, own in slices(encoded, call, at_once or num):
        if recompute:
            run = partial(run_part, hnet, part, own, None)
            made.append(checkpoint(lambda _, run=run: run(), part.vector, use_reentrant=False))
        else:
            made.append(run_part(hnet, part, own, None))
    return made[0] if len(made) == 1 else tree_map(lambda *outs: torch.cat(outs), *made)


def run_part(hnet: HyperNetwork, encoded: Encoded, call: Call, record: Record | None) -> Any:
    """Generate and run; layers are evaluated from the weights' parts where that is cheaper."""
    if len(call.batch) != 1:
        return apply_tensors(hnet, hnet._generate(encoded), {}, call, record)
    few, index = shared_ids(hnet, encoded)
    backward = torch.is_grad_enabled()
    sizes = (call.batch[0], call.rows(), few.vector.element_size(), few.vector.device.type)
    if not hnet._contracts(*sizes, backward):
        made = hnet._generate(few)
        if index is not None:
            made = {name: value.index_select(0, index) for name, value in made.items()}
        return apply_tensors(hnet, made, {}, call, record)
    loom = Loom(
        hnet.plan,
        hnet.trunks,
        hnet.heads,
        *hnet._fixed(),
        hnet._skeleton.dtypes,
        few,
        index,
        record,
    )
    return _apply_weights(hnet, loom.weights(), loom.shared(), call)


def explain(
    hnet: HyperNetwork, encoded: Encoded, call: Call, program: Program | None
) -> Explanation:
    """Run once, and note what was chosen; a program has chosen already."""
    notes: list[tuple[str, str, str, Layer | None]] = []

    def record(weight: Weight, operation: str, choice: str, layer: Layer | None) -> None:
        notes.append((weight.name, operation, choice, layer))

    if program is None:
        run_part(hnet, encoded, call, record)
    else:
        notes += [(name, "linear", way, layer) for name, way, layer in program.ways]
    seen = {name for name, *_ in notes}
    notes += [(e.tensor, "other", "dense", None) for e in hnet.plan.entries if e.tensor not in seen]
    num, single = math.prod(call.batch), not call.batch
    size, device = encoded.vector.element_size(), encoded.vector.device.type
    entries = {entry.tensor: entry for entry in hnet.plan.entries}
    uses = []
    for name, operation, choice, layer in notes:
        if layer is None and choice == "dense" and not single:
            layer = layer_of(hnet.plan, entries[name], num, call.rows(), torch.is_grad_enabled())
        spec = hnet.plan.spec[name]
        uses.append(used(spec, operation, choice, layer, size, device, single))
    done = tuple(uses)
    if not call.batch:
        return Explanation("single", "one condition: the target is run as it is", 1, done)
    if call.chain_input() is not None and hnet._skeleton.chain is not None:
        reason = "the target is a chain of simple layers, run with the conditions in front"
        return Explanation("chain", reason, num, done)
    return Explanation("vmap", "the target has a forward of its own", num, done)


def apply_tensors(
    hnet: HyperNetwork,
    made: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    call: Call,
    record: Record | None = None,
) -> Any:
    """Run the target with dense tensors `(*batch, *shape)`, and `kept` in place of its own."""
    if call.batch:
        chain = hnet._skeleton.chain if record is None else None
        x = call.chain_input() if chain is not None else None
        if chain is not None and x is not None:
            return chain.run({**hnet._kept(), **kept, **made}, x)
        return _apply_weights(hnet, dense_weights(made, hnet.plan, record), kept, call)
    hnet._warn_of_lost_statistics()
    tensors = {**hnet._kept(), **kept, **made}
    return run_single(hnet._skeleton, tensors, hnet._buffers_now(), call)


def _apply_weights(
    hnet: HyperNetwork, weights: Mapping[str, Weight], shared: Mapping[str, Tensor], call: Call
) -> Any:
    """Run the target with weight objects, and `shared` in place of its own tensors."""
    hnet._warn_of_lost_statistics()
    kept = {**hnet._kept(), **shared}
    chain = hnet._skeleton.chain
    x = call.chain_input() if chain is not None else None
    if chain is not None and x is not None:
        return chain.run({**kept, **weights}, x)
    return run_vmap(hnet._skeleton, weights, kept, hnet._buffers_now(), call)


def contracts(plan: Plan, num: int, rows: int, itemsize: int, device: str, backward: bool) -> bool:
    """Whether any layer is cheaper from its parts than from dense weights made in one go."""
    for entry in plan.entries:
        layer = layer_of(plan, entry, num, rows, backward)
        if layer is not None and choose(layer, itemsize, device) != "dense":
            return True
        if len(plan.spec[entry.tensor].shape) >= 2 and not isinstance(entry.form, (Whole, Delta)):
            return True
    return False


def layer_of(plan: Plan, entry: Entry, num: int, rows: int, backward: bool) -> Layer | None:
    """Return the sizes of a matrix or kernel that a linear head gives, if it is one."""
    shape = plan.spec[entry.tensor].shape
    head = plan.heads[entry.pieces[0].head]
    whole = isinstance(entry.form, (Whole, Delta)) and in_one_slot(plan, entry.pieces[0])
    if len(shape) < 2 or head.source is not Source.FEATURES or not whole:
        return None
    fan_in = math.prod(shape[1:])
    return Layer(num, rows, plan.features(head), fan_in, shape[0], fan_in, backward)


def dense_weights(tensors: Mapping[str, Tensor], plan: Plan, record: Any) -> dict[str, Weight]:
    """Return tensors `(B, *shape)` as weight objects."""
    return {
        name: Dense(name, torch.Size(plan.spec[name].shape), len(value), value, record=record)
        for name, value in tensors.items()
    }


def run_single(
    skeleton: Skeleton,
    tensors: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    call: Call,
) -> Any:
    """Run the target once, with one condition's tensors."""
    # Clones: a target that writes its buffers (running statistics, caches) writes these.
    own = {name: value.clone() for name, value in buffers.items()}
    return skeleton.call(tensors, own, call.inputs, call.kwargs)


def run_vmap(
    skeleton: Skeleton,
    weights: Mapping[str, Weight],
    kept: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    call: Call,
) -> Any:
    """Run the target under `vmap`, with weight objects in place of its matrices and kernels."""
    owned = {name: weight.owned for name, weight in weights.items()}

    def one(owned: Any, buffers: Any, args: Any, kwargs: Any) -> Any:
        tensors = dict(kept)
        for name, weight in weights.items():
            hidden = weight.with_owned(owned[name])
            dtype = skeleton.dtypes[name]
            # Vectors have no way of their own; matrices and kernels have, even dense ones, where
            # vmap is wrong (padding rows of embeddings) or loops (bilinear layers).
            matrix = len(weight.shape) >= 2
            tensors[name] = Generated.of(hidden, dtype) if matrix else hidden.dense().to(dtype)
        own = {name: value.clone() for name, value in buffers.items()}
        return skeleton.call(tensors, own, args, kwargs)

    # A batched write into a buffer needs a buffer for each condition.
    writes = skeleton.module.training and bool(buffers)
    if writes:
        buffers = {n: v.expand(*call.batch, *v.shape) for n, v in buffers.items()}
    function = one
    for _ in call.batch:
        function = vmap(
            function,
            in_dims=(0, 0 if writes else None, call.dims, call.kwargs_dims),
            randomness="different",
        )
    return function(owned, buffers, call.inputs, call.kwargs)
