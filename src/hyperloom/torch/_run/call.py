"""One call: its inputs paired with the conditions, and what was chosen for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hyperloom._core.plan.cost import Layer
from hyperloom.torch._generate.conditions import Encoded
from hyperloom.torch._run.pairing import dims_like, first_paired, narrow_like, pair_check
from hyperloom.torch._weights.weights import Weight

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
class Chosen:
    """How a call was run; filled in on the way.

    Attributes:
        strategy: `single`, `chain`, `vmap` or `loop`.
        reason: Why.
        slow: What is run by a slower way, and why.
    """

    strategy: str = "vmap"
    reason: str = "the target has a forward of its own"
    slow: tuple[str, ...] = ()


@dataclass
class Notes:
    """What `explain()` wants to know of a run."""

    chosen: Chosen = field(default_factory=Chosen)
    uses: list[tuple[str, str, str, Layer | None]] = field(default_factory=list)

    def __call__(self, weight: Weight, operation: str, choice: str, layer: Layer | None) -> None:
        self.uses.append((weight.name, operation, choice, layer))
