"""Generated weights as objects: layers are evaluated from their parts where that is cheaper.

An object stands for the weights of `B` conditions and knows three things: how to become a dense
tensor, how to apply itself as the weight of a layer, and which of its tensors belong to one
condition. The same code runs with the conditions as a leading dimension (`lead` is 1), with rows in
front that belong to one condition or another (`by` says which), and inside `vmap`, where the
conditions are hidden (`lead` is 0).

Legend of suffixes: B conditions, N rows of one condition, I inputs, O outputs, R templates.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom._core.errors import message
from hyperloom._core.plan.cost import Layer
from hyperloom.torch._target.packed import Packed
from hyperloom.torch._target.private import is_batched, without_saving_hooks
from hyperloom.torch._weights.rows import Rows

Conv = Callable[..., Tensor]


@dataclass
class Weight(ABC):
    """A generated weight.

    Attributes:
        name: Its tensor's name.
        shape: Shape of one condition's weight.
        num: Conditions `B`.
        lead: 1 while the conditions are the first dimension of the tensors, 0 while hidden.
        by: Which rows have which condition, where inputs have rows in front; else `None`.
        record: Where to note what was chosen; `None` outside `explain()`.
        modes: The modes in which it is formed, where that is kept; `None` for those of the moment.
        formed: It, formed, where that is kept.
    """

    name: str
    shape: torch.Size
    num: int
    lead: int = field(default=1, kw_only=True)
    by: Rows | None = field(default=None, kw_only=True)
    record: Any = field(default=None, kw_only=True)
    modes: Any = field(default=None, kw_only=True, repr=False)
    formed: Any = field(default=None, init=False, repr=False)

    @property
    def packed(self) -> bool:
        """Whether its base is packed in a layer, which is run: it is not formed to be applied."""
        return isinstance(getattr(self, "base", None), Packed)

    @property
    @abstractmethod
    def owned(self) -> tuple[Tensor, ...]:
        """The tensors with a slice for each condition."""

    @abstractmethod
    def with_owned(self, tensors: tuple[Tensor, ...]) -> Weight:
        """Return the same weight over other tensors of its own, with the conditions hidden."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the weight, `(*lead, *shape)`."""

    def forced(self, way: str) -> Weight:
        """Return the same weight, to be evaluated in one way always.

        Raises:
            ValueError: It has no such way.
        """
        if way == "dense":
            formed = Dense(self.name, self.shape, self.num, self.dense())
            return replace(formed, lead=self.lead, by=self.by, record=self.record)
        got, wanted = f"{way!r} for {self.name!r}", "'dense': it is no sum of templates"
        raise ValueError(message("Execution(ways=)", got, wanted))

    def turned(self) -> Weight:
        """Return the transpose of a matrix."""
        shape = torch.Size(reversed(self.shape))
        matrix = Dense(self.name, shape, self.num, self.whole().mT)
        return replace(matrix, lead=self.lead, by=self.by, record=self.record)

    def to(self, dtype: torch.dtype) -> Self:
        """Return the same weight with all its numbers in a dtype."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        other = {n: v.to(dtype) for n, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **other) if any(other[n] is not values[n] for n in other) else self

    def whole(self) -> Tensor:
        """Return the weight, formed once where rows meet it, as it may be met again."""
        if self.by is None:
            return self.dense()
        if self.formed is None:
            with without_saving_hooks():
                self.formed = self.dense() if self.modes is None else self.modes.run(self.dense)
        return self.formed

    def linear(self, x: Tensor) -> Tensor:
        """Return `x W^T`, `(*lead, *n, I)` -> `(*lead, *n, O)`."""
        self.note("linear", "dense", self.rows_in(x, 1))
        return self.product(x, self.whole())

    def affine(self, x: Tensor, bias: Tensor) -> Tensor:
        """Return `x W^T + bias`, with a bias `(O,)` that all conditions share."""
        y = self.linear(x)
        return y + bias.to(y.dtype)

    def convolve(self, conv: Conv, x: Tensor, transposed: bool, groups: int) -> Tensor:
        """Return `conv(x, W)`, for hidden conditions or rows.

        Args:
            conv: `conv(x, kernel, times)` with stride, padding, the rest, and `times` its groups.
            x: `(N, C, *spatial)`, or without `N`.
            transposed: Whether it is a transposed convolution.
            groups: Its groups.
        """
        self.note("conv", "dense", self.positions_in(x))
        return self.conv_each(conv, x, self.whole())

    def embed(self, ids: Tensor, **options: Any) -> Tensor:
        """Return the rows of the weight at `ids`, for hidden conditions or rows."""
        self.note("embedding", "dense", self.rows_in(ids, 0))
        if torch.compiler.is_compiling() and not options:
            # vmap's rule for F.embedding reads the number of conditions: a graph for each.
            return self.look_up(ids, self.whole()) if self.by else self.dense()[ids]
        return self.look_up(ids, self.whole(), **options)

    def product(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Apply each condition's own matrix to its rows: `(*lead, *n, I) (*lead, O, I)`."""
        if self.by is None:
            return linear_each(x, matrix, self.lead)
        return self.by.fit(len(x)).product(x, matrix)

    def conv_each(self, conv: Conv, x: Tensor, kernel: Tensor) -> Tensor:
        """Apply each condition's own kernel."""
        if self.by is None:
            return conv(x, kernel, 1)
        return self.by.fit(len(x)).convolve(conv, x, kernel)

    def look_up(self, ids: Tensor, table: Tensor, **options: Any) -> Tensor:
        """Look up ids in each condition's own table `(*lead, V, D)`."""
        if self.by is None:
            return F.embedding(ids, table, **options)
        return self.by.fit(len(ids)).look_up(ids, table)

    def rows_in(self, x: Tensor, last: int) -> int:
        """Return how many rows one condition has in `x`, but for its `last` axes."""
        if self.by is None:
            return math.prod(x.shape[self.lead : x.ndim - last])
        return max(1, math.prod(x.shape[: x.ndim - last]) // self.num)

    def positions_in(self, x: Tensor) -> int:
        """Return in how many places one condition meets a kernel in `x`, `(N, C, *spatial)`."""
        spatial = len(self.shape) - 2
        return self.rows_in(x, spatial + 1) * math.prod(x.shape[x.ndim - spatial :])

    def lift(self, tensor: Tensor, x: Tensor, axes: int) -> Tensor:
        """Insert axes after the conditions so that `tensor`'s last `axes` axes meet `x`'s last."""
        if not self.lead:
            return tensor
        if self.by is not None:
            tensor = self.by.fit(len(x)).gather(tensor)
        missing = x.ndim - self.lead - axes
        return tensor.reshape(tensor.shape[0], *(1,) * missing, *tensor.shape[1:])

    def note(self, op: str, choice: str, layer: Layer | int | None = None) -> None:
        """Tell `explain()` what was chosen, and for what sizes, or for how many rows at least."""
        if self.record is not None:
            self.record(self, op, choice, layer)


def parts_of(weight: Weight) -> list[Tensor]:
    """Return all tensors that a weight is made of, of each condition and shared."""
    values = (getattr(weight, part.name) for part in fields(weight))
    return [value for value in values if isinstance(value, Tensor)]


def linear_each(x: Tensor, weight: Tensor, lead: int, bias: Tensor | None = None) -> Tensor:
    """Apply each condition's own matrix to its rows: `(*lead, *n, I) (*lead, O, I)`.

    Weight times rows, and then transposed: the weight's gradient comes out in the weight's own
    layout. As rows times weight it would be copied into place, once for every condition.

    Args:
        x: `(*lead, *n, I)`.
        weight: `(*lead, O, I)`.
        lead: 1 with the conditions in front, 0 while they are hidden.
        bias: `(*lead, O)` or `None`.
    """
    if not lead:
        return linear_hidden(x, weight, bias)
    rows = (x.flatten(1, -2) if x.ndim > 2 else x.unsqueeze(1)).mT
    if bias is None:
        outputs = torch.bmm(weight, rows).mT
    else:
        outputs = torch.baddbmm(bias.unsqueeze(-1), weight, rows).mT
    return outputs if x.ndim == 3 else outputs.reshape(*x.shape[:-1], weight.shape[-2])


def linear_hidden(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a matrix `(O, I)` to rows `(*n, I)`, with the conditions of both hidden.

    `vmap` would lay out the matrix of a condition once for each index of all axes of rows but one.
    """
    if x.ndim < 3 or torch.compiler.is_compiling() or not is_batched(weight):
        return F.linear(x, weight, bias)
    if x.dtype != weight.dtype or weight.ndim != 2:
        return F.linear(x, weight, bias)
    if bias is not None and (bias.dtype != x.dtype or bias.shape != weight.shape[:1]):
        return F.linear(x, weight, bias)  # which may refuse it
    y = torch.mm(x.flatten(0, -2), weight.mT).unflatten(0, x.shape[:-1])
    return y if bias is None else y + bias


@dataclass
class Dense(Weight):
    """A weight that is there as a tensor."""

    value: Tensor

    @property
    def owned(self) -> tuple[Tensor, ...]:
        return (self.value,)

    def with_owned(self, tensors: tuple[Tensor, ...]) -> Weight:
        return replace(self, value=tensors[0], lead=0)

    def dense(self) -> Tensor:
        return self.value

    def turned(self) -> Weight:
        return replace(self, shape=torch.Size(reversed(self.shape)), value=self.value.mT)
