"""One call: its inputs paired with the conditions, and what was chosen for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from hyperloom._core.backend.inputs import entries_of, unpacked
from hyperloom._core.plan.cost import Layer
from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._run.joined import OfEach
from hyperloom.torch._run.pairing import (
    all_dims,
    check_dims,
    dims_like,
    first_paired,
    has_mutable,
    narrow_like,
    pair_check,
)
from hyperloom.torch._run.ragged import Ragged
from hyperloom.torch._run.row_calls import paired
from hyperloom.torch._target.copies import Copies
from hyperloom.torch._target.objects import pack
from hyperloom.torch._weights.rows import Rows
from hyperloom.torch._weights.weights import Weight

Dims = int | tuple[Any, ...] | Mapping[Any, Any] | None


class Call:
    """The inputs of one call, checked against the batch of conditions.

    Args:
        batch: Dimensions of the batch; `()` for one condition.
        inputs: Positional inputs of the target, or one `Inputs` object.
        kwargs: Keyword inputs of the target.
        in_dims: As in `HyperNetwork.forward`.
        by: Which row has which condition, where the first axis of inputs is rows.
        method: The method of the target that is run.
        ragged: The way back to parts, where inputs had one for each condition.

    Attributes:
        dims: For each tensor in the inputs the dimension that pairs with the conditions, or `None`.
        kwargs_dims: The same for the keyword inputs.
        paired: The tensors (`id`) that have rows, beside `by`.
        index: For every place of the batch its condition, where repeated ones are generated once.
        mutable: Whether there are lists or dicts among the inputs, which the target could change.
        theirs: Tensors of the user's that weights may be views of.
        objects: Whether an input has for each condition an object, as an earlier call returned it,
            or a part of a NumPy array.
        usual: The input `(B, ...)` or `(...)`, where it is the only one, as a tensor.

    Raises:
        ValueError: Inputs that do not pair with the conditions.
    """

    theirs: tuple[Tensor, ...] = ()

    def __init__(
        self,
        batch: torch.Size,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        in_dims: Dims = 0,
        by: Rows | None = None,
        method: str = "forward",
        ragged: Ragged | None = None,
    ) -> None:
        self.batch, self.inputs, self.kwargs = batch, inputs, kwargs
        self.by, self.method, self.paired = by, method, frozenset()
        self.index: Tensor | None = None
        self.ragged = ragged
        self.usual: Tensor | None = None
        self.mutable = self.objects = False
        if by is not None:
            self.inputs, self.kwargs = unpacked(inputs, kwargs)
            self.paired = paired(by, self.inputs, self.kwargs, in_dims)
            self.dims, self.kwargs_dims = dims_like(self.inputs, None), {}
            return
        usual = len(inputs) == 1 and not kwargs and type(in_dims) is int and in_dims == 0
        if usual and len(batch) <= 1:  # without the walk through trees
            first = inputs[0]
            if isinstance(first, Tensor) and first.shape[: len(batch)] == batch:
                self.dims, self.kwargs_dims = (0,), {}
                self.usual = first if method == "forward" else None
                return
        self.inputs, self.kwargs = inputs, kwargs = unpacked(inputs, kwargs)
        check_dims(in_dims)
        if batch and not all(type(value) is Tensor for value in (*inputs, *kwargs.values())):
            inputs, kwargs = self._packed(inputs, kwargs, in_dims)
        self.dims, self.kwargs_dims = all_dims(inputs, kwargs, in_dims, batch)
        self.mutable = has_mutable((*inputs, *kwargs.values()))
        if batch:
            pair_check(inputs, self.dims, kwargs, self.kwargs_dims, batch)

    def _packed(
        self, inputs: tuple[Any, ...], kwargs: dict[str, Any], in_dims: Dims
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Make nodes of the dataclasses and mappings in inputs that are paired."""
        dims, named = entries_of("in_dims", inputs, kwargs, in_dims)
        pairs = zip(inputs, dims, strict=True)
        self.inputs = tuple([value if dim is None else pack(value) for value, dim in pairs])
        self.kwargs = {n: v if named[n] is None else pack(v) for n, v in kwargs.items()}
        leaves = tree_leaves((self.inputs, self.kwargs))
        self.objects = any(isinstance(leaf, (OfEach, np.ndarray)) for leaf in leaves)
        return self.inputs, self.kwargs

    def over(self, copies: Copies) -> Call:
        """Return the same call with copies of its inputs."""
        other = copy.copy(self)
        other.inputs, other.kwargs = copies.inputs
        renamed = {id(original): id(copied) for original, copied, _ in copies.tensors}
        other.paired = frozenset(renamed.get(tensor, tensor) for tensor in self.paired)
        other.usual = None if self.usual is None else other.inputs[0]
        return other

    def narrow(self, start: int, stop: int) -> Call:
        """Return the call for conditions `start .. stop` of a batch with one dimension."""
        assert self.by is None
        part = object.__new__(Call)
        part.by, part.method, part.paired, part.index = self.by, self.method, self.paired, None
        part.ragged = self.ragged
        part.batch = torch.Size([stop - start])
        part.dims, part.kwargs_dims = self.dims, self.kwargs_dims
        part.inputs = narrow_like(self.inputs, self.dims, start, stop)
        part.kwargs = narrow_like(self.kwargs, self.kwargs_dims, start, stop)
        part.mutable, part.objects = self.mutable, self.objects
        part.usual = None if self.usual is None else part.inputs[0]
        return part

    def narrow_rows(self, start: int, stop: int) -> Call:
        """Return the call for conditions `start .. stop` and their rows."""
        assert self.by is not None
        by, paired = self.by, set[int]()

        def mine(leaf: Any) -> Any:
            if id(leaf) not in self.paired:
                return leaf
            conditions = by.fit(len(leaf)).condition_of_row(leaf.device)
            rows = leaf[(conditions >= start) & (conditions < stop)]
            paired.add(id(rows))
            return rows

        inputs, kwargs = tree_map(mine, (self.inputs, self.kwargs))
        every = by.condition_of_row(torch.device("cpu"))
        rows = Rows.of(stop - start, every[(every >= start) & (every < stop)] - start)
        part = Call(torch.Size([stop - start]), inputs, kwargs, None, rows, self.method)
        part.paired = frozenset(paired)
        return part

    def rows(self) -> int:
        """Guess how many rows each condition has, from the first paired input `(B, *n, I)`."""
        if self.by is not None:
            return max(1, self.by.size // self.by.num)
        first = first_paired(self.inputs, self.dims) if self.usual is None else self.usual
        return 1 if first is None else max(1, math.prod(first.shape[len(self.batch) : -1]))

    def chain_input(self) -> Tensor | None:
        """Return the one input `(B, *n, I)` of a chain of layers, if this is such a call."""
        x = self.only_input()
        if x is None or len(self.batch) != 1 or self.by is not None:
            return None
        dim = self.dims[0]
        if dim is None:
            return x.expand(*self.batch, *x.shape) if x.ndim >= 1 else None
        x = x.movedim(dim, 0) if dim else x
        return x if x.ndim >= 2 else None

    def only_input(self) -> Tensor | None:
        """Return the input, if there is one only and it is a tensor of floats."""
        if self.kwargs or len(self.inputs) != 1 or self.method != "forward":
            return None
        x = self.inputs[0]
        return x if isinstance(x, Tensor) and x.is_floating_point() else None


def slices(encoded: Encoded, call: Call, size: int) -> Iterator[tuple[Encoded, Call]]:
    """Yield the batch of conditions and their inputs in parts of `size`; those of no rows not."""
    for start in range(0, max(1, math.prod(call.batch)), size):
        if not call.batch or len(call.batch) > 1:
            yield encoded, call
            return
        stop = min(start + size, call.batch[0])
        few = encoded.each(lambda value, start=start, stop=stop: value[start:stop])
        if call.by is None:
            yield few, call.narrow(start, stop)
        elif sum(call.by.counts[start:stop]):
            yield few, call.narrow_rows(start, stop)


class Uses(list[tuple[str, str, str, Layer | int | None]]):
    """What weight objects tell of their uses: name, operation, way, and sizes or a number of rows.

    Attributes:
        way: Strategy and reason, where they are others than the route says.
    """

    way: tuple[str, str] | None = None

    def __call__(
        self, weight: Weight, operation: str, choice: str, layer: Layer | int | None
    ) -> None:
        self.append((weight.name, operation, choice, layer))


def may_be_ragged(inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether any input could have a part for each condition: cheap, as every call asks."""
    return any(
        type(value) is list or (isinstance(value, Tensor) and value.is_nested)
        for value in (*inputs, *kwargs.values())
    )
