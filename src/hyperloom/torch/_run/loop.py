"""One condition after the other: any target, with the meaning that a batch is defined by."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten  # the trees of torch.func.vmap

from hyperloom._core.errors import message
from hyperloom.torch._run.pairing import select_like
from hyperloom.torch._run.row_calls import RowCall, assembled, part_of
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._target.trace import Draws
from hyperloom.torch._weights.rows import Rows
from hyperloom.torch._weights.weights import Weight

if TYPE_CHECKING:
    from hyperloom.torch._run.call import Call
    from hyperloom.torch._run.runner import Runner


def run_loop(
    runner: Runner,
    weights: Mapping[str, Weight | Tensor],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    """Run the target for each condition by itself; stack what it returns.

    Args:
        runner: What runs the target.
        weights: The generated weights of all conditions.
        shared: Tensors that all conditions share.
        call: The inputs.
        buffers: The target's buffers; what a condition writes, the next one finds.
    """
    skeleton, dtypes, batch = runner.skeleton, runner.dtypes, call.batch
    last = len(batch) - 1
    tensors = {
        name: value if isinstance(value, Tensor) else value.dense().to(dtypes[name])
        for name, value in weights.items()
    }
    slices_of = {name: value.flatten(0, last).unbind(0) for name, value in tensors.items()}
    rows = iter(range(batch.numel()))

    def one(inputs: Any) -> Any:
        row = next(rows)
        again()
        own = {name: slices[row] for name, slices in slices_of.items()}
        with buffers.one(row) as written:
            return skeleton.call({**shared, **own}, written, *inputs, method=call.method)

    def of_rows(by: Rows, number: int) -> Any:
        again()
        own = {name: slices[number] for name, slices in slices_of.items()}
        inputs = part_of(RowCall(by, call.inputs, call.kwargs, call.paired), number)
        with buffers.one(number) as written:
            return skeleton.call({**shared, **own}, written, *inputs, method=call.method)

    with same_draws(runner) as again:
        if call.by is not None:
            return assembled([of_rows(call.by, i) for i in call.by.present()], call.by)
        return _mapped(one, (call.inputs, call.kwargs), (call.dims, call.kwargs_dims), batch)


def _mapped(one: Callable[[Any], Any], inputs: Any, dims: Any, batch: Sequence[int]) -> Any:
    """Run `one` on the inputs of every condition, and join what it returns.

    No closure that calls itself: as a cycle it would hold the weights until the collector runs.
    """
    if not batch:
        return one(inputs)
    slices = (select_like(inputs, dims, i) for i in range(batch[0]))
    return join([_mapped(one, own, dims, batch[1:]) for own in slices])


def join(outputs: Sequence[Any]) -> Any:
    """Return the outputs of the conditions as one: tensors are stacked along a new dimension 0.

    What is no tensor stays as it is where all conditions return the same; else it becomes a list
    with an entry for each condition.

    Raises:
        ValueError: Outputs of different structures or shapes.
    """
    flat, specs = zip(*(tree_flatten(output) for output in outputs), strict=True)
    if any(spec != specs[0] for spec in specs):
        other = next(i for i, spec in enumerate(specs) if spec != specs[0])
        got = f"{specs[0]} for the first condition and {specs[other]} for number {other}"
        raise ValueError(message("the target's output", got, "one structure", _ONE_BY_ONE))
    return tree_unflatten([_joined(leaves) for leaves in zip(*flat, strict=True)], specs[0])


_ONE_BY_ONE = "Call the conditions one by one."


def concatenated(outputs: Sequence[Any]) -> Any:
    """Return the outputs of several parts of a batch as one, by the rules of `join`."""
    flat, specs = zip(*(tree_flatten(output) for output in outputs), strict=True)
    if any(spec != specs[0] for spec in specs):
        raise ValueError(message("the target's output", "parts", "one structure", _ONE_BY_ONE))
    leaves = [
        torch.cat(own) if isinstance(own[0], Tensor) else _joined(own)
        for own in zip(*flat, strict=True)
    ]
    return tree_unflatten(leaves, specs[0])


def _joined(leaves: Sequence[Any]) -> Any:
    first = leaves[0]
    if all(isinstance(leaf, Tensor) for leaf in leaves):
        shapes = {tuple(leaf.shape) for leaf in leaves}
        if len(shapes) > 1:
            got = " and ".join(map(str, sorted(shapes)))
            wanted = "outputs of one shape for all conditions"
            raise ValueError(message("the target's output", f"shapes {got}", wanted, _ONE_BY_ONE))
        return torch.stack(list(leaves))
    if all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return np.stack(leaves)
    if isinstance(first, CONSTANT) and all(type(leaf) is type(first) for leaf in leaves):
        same = all(leaf == first for leaf in leaves)
        return first if same else list(leaves)
    return list(leaves)


# Values that say the same for every condition if they are equal.
CONSTANT = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


@contextmanager
def same_draws(runner: Runner) -> Generator[Any]:
    """Give a function that winds the random generators back to here, if that is asked for."""
    if runner.execution.randomness != "same":
        yield lambda: None
        return
    yield Draws().restore
