"""A batch without conditions: nothing is run but one network of zeros, to see what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, cat
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from hyperloom.torch._run.joined import CONSTANT, OfEach
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._target.copies import Draws
from hyperloom.torch._weights.weights import Weight

if TYPE_CHECKING:
    from hyperloom.torch._run.call import Call
    from hyperloom.torch._run.runner import Runner


def run_none(
    runner: Runner,
    weights: Mapping[str, Weight | Tensor],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    """Return what the target returns for no condition: tensors with a size of 0 in the batch.

    Their shapes are the target's to tell. Gradients are zeros; what it keeps is as it was.
    """
    skeleton, batch = runner.skeleton, call.batch
    trace, draws = skeleton.code.watch((call.inputs, call.kwargs)), Draws()
    dense = {n: w if isinstance(w, Tensor) else w.dense() for n, w in weights.items()}
    tensors = {name: _one_of(value, 0, batch) for name, value in dense.items()}
    by_id = {name: table[0] for name, table in buffers.tables.items() if name in buffers.rows}
    given = {name: value.clone() for name, value in {**buffers.plain, **by_id}.items()}
    leaves, tree = tree_flatten((call.inputs, call.kwargs))
    dims = tree_leaves((call.dims, call.kwargs_dims))
    both = zip(leaves, dims, strict=True)
    ones = [leaf if dim is None else _one_of(leaf, dim, batch) for leaf, dim in both]
    args, kwargs = tree_unflatten(ones, tree)
    try:
        output = skeleton.call({**shared, **tensors}, given, args, kwargs, method=call.method)
    finally:
        draws.restore()
        if trace is not None:
            trace.restore()

    def none_of(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.expand(*batch, *leaf.shape)
        if isinstance(leaf, np.ndarray):
            return np.broadcast_to(leaf, (*batch, *leaf.shape)).copy()
        return leaf if isinstance(leaf, CONSTANT) else OfEach()

    return tree_map(none_of, output)


def _one_of(tensor: Tensor, dim: int, batch: tuple[int, ...]) -> Tensor:
    """Return one slice of a paired tensor, of zeros where it has none; gradients reach it."""
    for _ in batch:
        if not tensor.shape[dim]:
            shape = list(tensor.shape)
            shape[dim] = 1
            tensor = cat([tensor, tensor.new_zeros(shape)], dim)
        tensor = tensor.select(dim, 0)
    return tensor
