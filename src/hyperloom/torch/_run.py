"""Running a target on a batch of conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from hyperloom._cost import Layer, choose
from hyperloom._form import Delta, Whole
from hyperloom._layout import Source
from hyperloom._plan import Plan
from hyperloom.torch._batch import dims_like, first_paired, pair_check
from hyperloom.torch._lowered import Chain
from hyperloom.torch._placeholder import Generated
from hyperloom.torch._skeleton import Skeleton
from hyperloom.torch._structured import Dense, Weight

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
        self.dims = dims_like(inputs, in_dims)
        each = isinstance(in_dims, (tuple, list))
        self.kwargs_dims = dims_like(kwargs, 0 if each else in_dims)
        if batch:
            pair_check(inputs, self.dims, kwargs, self.kwargs_dims, batch)

    def rows(self) -> int:
        """Guess how many rows each condition has, from the first paired input `(B, *n, I)`."""
        first = first_paired(self.inputs, self.dims)
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
        x = x.movedim(dim, 0)
        return x if x.ndim >= 2 else None


def contracts(plan: Plan, num: int, rows: int, itemsize: int, device: str) -> bool:
    """Whether any layer is cheaper from its parts than from dense weights made in one go."""
    for entry in plan.entries:
        shape = plan.spec[entry.tensor].shape
        if len(shape) < 2:
            continue
        if not isinstance(entry.form, (Whole, Delta)):
            return True
        head = plan.heads[entry.pieces[0].head]
        if head.source is Source.FEATURES:
            fan_in = math.prod(shape[1:])
            layer = Layer(num, rows, plan.features(head), fan_in, shape[0], fan_in)
            if choose(layer, itemsize, device) != "dense":
                return True
    return False


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


def run_chain(
    chain: Chain, weights: Mapping[str, Weight], kept: Mapping[str, Tensor], x: Tensor
) -> Tensor:
    """Run a chain of layers with the conditions in front."""
    return chain.run({**kept, **weights}, x)


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
            dtype = skeleton.dtype(name)
            matrix = len(weight.shape) >= 2 and not isinstance(weight, Dense)
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
