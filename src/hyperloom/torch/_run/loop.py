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
from hyperloom.torch._target.copies import Draws
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
        tensors_of_one = {name: slices[row] for name, slices in slices_of.items()}
        with buffers.one(row) as written:
            return skeleton.call({**shared, **tensors_of_one}, written, *inputs, method=call.method)

    def of_rows(by: Rows, number: int) -> Any:
        again()
        tensors_of_one = {name: slices[number] for name, slices in slices_of.items()}
        inputs = part_of(RowCall(by, call.inputs, call.kwargs, call.paired), number)
        with buffers.one(number) as written:
            return skeleton.call({**shared, **tensors_of_one}, written, *inputs, method=call.method)

    with same_draws(runner) as again:
        if call.by is not None:
            return assembled([of_rows(call.by, i) for i in call.by.present()], call.by)
        dims = (call.dims, call.kwargs_dims)
        return join(_mapped(one, (call.inputs, call.kwargs), dims, batch), batch)


def _mapped(one: Callable[[Any], Any], inputs: Any, dims: Any, batch: Sequence[int]) -> list[Any]:
    """Run `one` on the inputs of every condition; return what it returns, in one row.

    No closure that calls itself: as a cycle it would hold the weights until the collector runs.
    """
    if not batch:
        return [one(inputs)]
    slices = (select_like(inputs, dims, i) for i in range(batch[0]))
    return [output for part in slices for output in _mapped(one, part, dims, batch[1:])]


class OfEach(list[Any]):
    """Values that differ, one of each condition. A class, so that it is a leaf of output trees."""


def join(outputs: Sequence[Any], batch: Sequence[int]) -> Any:
    """Return the outputs of the conditions as one: tensors are stacked along new dimensions.

    What is no tensor stays as it is where all conditions return the same; else it becomes a list
    with an entry for each condition, in lists for each dimension of the batch but the last.

    Raises:
        ValueError: Outputs of different structures or shapes.
    """
    flat, specs = zip(*(tree_flatten(output) for output in outputs), strict=True)
    if any(spec != specs[0] for spec in specs):
        other = next(i for i, spec in enumerate(specs) if spec != specs[0])
        got = f"{specs[0]} for the first condition and {specs[other]} for number {other}"
        raise ValueError(message("the target's output", got, "one structure", _ONE_BY_ONE))
    leaves = [_in_batch(_joined(values), batch) for values in zip(*flat, strict=True)]
    return tree_unflatten(leaves, specs[0])


def _in_batch(leaf: Any, batch: Sequence[int]) -> Any:
    """Give a leaf of all conditions the dimensions of the batch."""
    if len(batch) < 2:
        return leaf
    if isinstance(leaf, (Tensor, np.ndarray)):
        return leaf.reshape(*batch, *leaf.shape[1:])
    if isinstance(leaf, OfEach):
        size = len(leaf) // batch[0]
        rows = (OfEach(leaf[i : i + size]) for i in range(0, len(leaf), size))
        return OfEach(_in_batch(row, batch[1:]) for row in rows)
    return leaf


_ONE_BY_ONE = "Call the conditions one by one."


def concatenated(outputs: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Return the outputs of several parts of a batch, of these sizes, by the rules of `join`."""
    flat, specs = zip(*(tree_flatten(output) for output in outputs), strict=True)
    if any(spec != specs[0] for spec in specs):
        raise ValueError(message("the target's output", "parts", "one structure", _ONE_BY_ONE))
    leaves = []
    for of_parts in zip(*flat, strict=True):
        if isinstance(of_parts[0], Tensor):
            leaves.append(torch.cat(of_parts))
        elif all(isinstance(part, np.ndarray) for part in of_parts):
            leaves.append(np.concatenate(of_parts))
        else:
            parts = zip(of_parts, sizes, strict=True)
            lists = [part if isinstance(part, OfEach) else [part] * num for part, num in parts]
            leaves.append(_joined([value for part in lists for value in part]))
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
        return first if same else OfEach(leaves)
    return OfEach(leaves)


# Values that say the same for every condition if they are equal.
CONSTANT = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


@contextmanager
def same_draws(runner: Runner) -> Generator[Any]:
    """Give a function that winds the random generators back to here, if that is asked for."""
    if runner.execution.randomness != "same":
        yield lambda: None
        return
    yield Draws().restore
