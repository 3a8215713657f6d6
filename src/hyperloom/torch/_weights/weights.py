"""Generated weights as objects: layers are evaluated from their parts where that is cheaper.

Every class here stands for the weights of `B` conditions and knows three things: how to become a
dense tensor, how to apply itself as the weight of a layer, and which of its tensors belong to
one condition. The same code runs with the conditions as a leading dimension (`lead` is 1), with
rows in front that belong to one condition or another (`by` says which), and inside `vmap`, where
the conditions are hidden (`lead` is 0).

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
from hyperloom.torch._target.private import without_saving_hooks
from hyperloom.torch._weights.choose import choose
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
        return F.linear(x, weight, bias)
    rows = (x if x.ndim == 3 else x.reshape(x.shape[0], -1, x.shape[-1])).mT
    if bias is None:
        outputs = torch.bmm(weight, rows).mT
    else:
        outputs = torch.baddbmm(bias.unsqueeze(-1), weight, rows).mT
    return outputs if x.ndim == 3 else outputs.reshape(*x.shape[:-1], weight.shape[-2])


def into_inputs(x: Tensor, coefficients: Tensor, lead: int) -> Tensor:
    """Multiply coefficients into inputs, to meet templates `(O, I R)` in one product for all.

    As an outer product by matrix product: its backward pass sums while it multiplies.

    Args:
        x: `(*lead, *n, I)`.
        coefficients: `(*lead, R)`.
        lead: 1 with the conditions in front, 0 while they are hidden.

    Returns:
        `(*lead, *n, I R)`.
    """
    numbers = x.reshape(*x.shape[:lead], -1, 1)
    return torch.matmul(numbers, coefficients.unsqueeze(-2)).reshape(*x.shape[:-1], -1)


def out_of_outputs(x: Tensor, coefficients: Tensor, templates: Tensor, shape: Any) -> Tensor:
    """Apply all templates in one product `(I, O R)`, then sum them with the coefficients.

    Args:
        x: `(*lead, *n, I)`.
        coefficients: `(*lead, R)`, with axes of 1 for `n`.
        templates: `(O I, R)`.
        shape: `(O, I)`.

    Returns:
        `(*lead, *n, O)`.
    """
    terms = templates.shape[-1]
    t_ORI = templates.reshape(*shape, terms).mT.reshape(-1, shape[1])
    y_NOR = F.linear(x, t_ORI).unflatten(-1, (shape[0], terms))
    return (y_NOR * coefficients.to(y_NOR.dtype).unsqueeze(-2)).sum(-1)


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


@dataclass
class SumWeight(Weight):
    """`base + sum_r c_r T_r`: what a linear head, or a bank of templates, gives.

    Attributes:
        coefficients: `(*lead, R)`.
        templates: `(numel, R)`, shared by all conditions.
        base: `(*shape)`, shared, or `None`.
        way: How it is evaluated; `""` to choose.
    """

    coefficients: Tensor
    templates: Tensor
    base: Tensor | None = None
    way: str = field(default="", kw_only=True)

    @property
    def owned(self) -> tuple[Tensor, ...]:
        return (self.coefficients,)

    def with_owned(self, tensors: tuple[Tensor, ...]) -> Weight:
        return replace(self, coefficients=tensors[0], lead=0)

    def dense(self) -> Tensor:
        flat = None if self.base is None else self.base.reshape(-1)
        numbers = F.linear(self.coefficients, self.templates, flat)
        return numbers.reshape(*numbers.shape[:-1], *self.shape)

    def forced(self, way: str) -> Weight:
        if way == "inputs" and len(self.shape) > 2:
            got, wanted = f"'inputs' for {self.name!r}", "'dense' or 'outputs': kernels overlap"
            raise ValueError(message("Execution(ways=)", got, wanted))
        return replace(self, way=way)

    def _choice(
        self, op: str, x: Tensor, rows: int, fan_in: int, fan_out: int, inputs: float
    ) -> str:
        terms, backward = self.templates.shape[-1], torch.is_grad_enabled()
        layer = Layer(self.num, rows, terms, fan_in, fan_out, inputs, backward, x.requires_grad)
        best = self.way or choose(layer, self.templates.element_size(), self.templates.device.type)
        self.note(op, best, layer)
        return best

    def turned(self) -> Weight:
        shape = torch.Size(reversed(self.shape))
        turned = self.templates.unflatten(0, self.shape).transpose(0, 1).flatten(0, 1)
        base = None if self.base is None else self.base.mT
        return replace(self, shape=shape, templates=turned, base=base)

    def linear(self, x: Tensor) -> Tensor:
        outputs, inputs = self.shape
        choice = self._choice("linear", x, self.rows_in(x, 1), inputs, outputs, inputs)
        if choice == "dense":
            return self.product(x, self.whole())
        base = None if self.base is None else F.linear(x, self.base)
        if choice == "inputs":
            coefficients = self.coefficients
            if self.by is not None:
                coefficients = self.by.fit(len(x)).gather(coefficients)
            x_NIR = into_inputs(x, coefficients, self.lead)
            result = F.linear(x_NIR, self.templates.reshape(outputs, -1))
        else:
            # In the product's dtype: under autocast that is what a plain layer would return.
            coefficients = self.lift(self.coefficients, x, 1)
            result = out_of_outputs(x, coefficients, self.templates, self.shape)
        return result if base is None else result + base

    def convolve(self, conv: Conv, x: Tensor, transposed: bool, groups: int) -> Tensor:
        if transposed or x.ndim != len(self.shape):
            return super().convolve(conv, x, transposed, groups)
        outputs, fan_in = self.shape[0], math.prod(self.shape[1:])
        rows = self.positions_in(x)
        # Multiplying the coefficients into the inputs is not on offer: kernels overlap.
        choice = self._choice("conv", x, rows, fan_in, outputs, math.inf)
        if choice == "dense":
            return self.conv_each(conv, x, self.whole())
        terms = self.templates.shape[-1]
        kernels = self.templates.reshape(outputs, fan_in, terms).movedim(-1, 1)
        y = conv(x, kernels.reshape(outputs * terms, *self.shape[1:]), 1)
        y = y.unflatten(1, (outputs, terms))
        weights = self.coefficients.to(y.dtype)
        weights = weights.reshape(*weights.shape, *(1,) * (x.ndim - 2))
        result = (y * self.lift(weights, y, x.ndim - 1)).sum(2)
        return result if self.base is None else result + conv(x, self.base, 1)

    def embed(self, ids: Tensor, **options: Any) -> Tensor:
        num, dim = self.shape
        terms, rows = self.templates.shape[-1], self.rows_in(ids, 0)
        layer = Layer(self.num, rows, terms, num, dim, dim)
        if self.way == "dense" or (rows >= num and not self.way):
            self.note("embedding", "dense", layer)
            return self.look_up(ids, self.whole(), **options)
        self.note("embedding", "outputs", layer)
        products = F.embedding(ids, self.templates.reshape(num, dim * terms), **options)
        products = products.unflatten(-1, (dim, terms))
        coefficients = self.coefficients.to(products.dtype)
        if self.by is None:
            vectors = products @ coefficients
        else:
            vectors = self.product(products, coefficients.unsqueeze(-2)).squeeze(-1)
        base = self.base
        return vectors if base is None else vectors + F.embedding(ids, base, **options)


@dataclass
class LowRankWeight(Weight):
    """`base + factor * U V`."""

    u: Tensor
    v: Tensor
    factor: float = 1.0
    base: Tensor | None = None

    @property
    def owned(self) -> tuple[Tensor, ...]:
        return (self.u, self.v)

    def with_owned(self, tensors: tuple[Tensor, ...]) -> Weight:
        return replace(self, u=tensors[0], v=tensors[1], lead=0)

    def dense(self) -> Tensor:
        product = self.factor * (self.u @ self.v)
        numbers = product.reshape(*product.shape[:-2], *self.shape)
        return numbers if self.base is None else self.base + numbers

    def turned(self) -> Weight:
        shape, base = torch.Size(reversed(self.shape)), self.base
        base = None if base is None else base.mT
        return replace(self, shape=shape, u=self.v.mT, v=self.u.mT, base=base)

    def linear(self, x: Tensor) -> Tensor:
        rank, (outputs, inputs) = self.u.shape[-1], self.shape
        rows = self.rows_in(x, 1)
        # Forming costs rank for each weight, applying costs rows; the factors cost rank each row.
        dearer = rows * rank * (outputs + inputs) > (rank + rows) * outputs * inputs
        if dearer and self.by is None:
            return super().linear(x)
        self.note("linear", "factors")
        low = self.product(x, self.v)
        result = self.product(low * self.factor if self.factor != 1.0 else low, self.u)
        return result if self.base is None else F.linear(x, self.base) + result

    def convolve(self, conv: Conv, x: Tensor, transposed: bool, groups: int) -> Tensor:
        rank, plain = self.u.shape[-1], x.ndim == len(self.shape)
        dearer = self.base is None or 2 * rank > self.shape[0]
        if transposed or groups > 1 or not plain or (dearer and self.by is None):
            return super().convolve(conv, x, transposed, groups)
        self.note("conv", "factors")
        low = self.conv_each(conv, x, self.v.unflatten(-1, self.shape[1:]))
        if self.by is None:
            outputs = (self.u * self.factor) @ low.flatten(2)
        else:
            outputs = self.product(low.flatten(2).mT * self.factor, self.u).mT
        outputs = outputs.reshape(outputs.shape[0], -1, *low.shape[2:])
        return outputs if self.base is None else conv(x, self.base, 1) + outputs

    def embed(self, ids: Tensor, **options: Any) -> Tensor:
        self.note("embedding", "factors")
        low = self.look_up(ids, self.u, **options)
        vectors = self.factor * (low @ self.v if self.by is None else self.product(low, self.v.mT))
        return vectors if self.base is None else F.embedding(ids, self.base, **options) + vectors


@dataclass
class ScaledWeight(Weight):
    """`base * rows * columns`, factors along the first and the second axis, either or both.

    Attributes:
        base: `(*shape)`, shared.
        rows: `(*lead, shape[0])` or `None`.
        columns: `(*lead, shape[1])` or `None`.
    """

    base: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None

    @property
    def owned(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (self.rows, self.columns) if t is not None)

    def with_owned(self, tensors: tuple[Tensor, ...]) -> Weight:
        given = iter(tensors)
        rows = None if self.rows is None else next(given)
        columns = None if self.columns is None else next(given)
        return replace(self, rows=rows, columns=columns, lead=0)

    def dense(self) -> Tensor:
        numbers = self.base
        for axis, factor in ((0, self.rows), (1, self.columns)):
            if factor is not None:
                ones = (1,) * (len(self.shape) - 1 - axis)
                front = (*factor.shape[: self.lead], *(1,) * axis)
                numbers = numbers * factor.reshape(*front, -1, *ones)
        return numbers

    def turned(self) -> Weight:
        shape = torch.Size(reversed(self.shape))
        rows, columns = self.columns, self.rows
        return replace(self, shape=shape, base=self.base.mT, rows=rows, columns=columns)

    def linear(self, x: Tensor) -> Tensor:
        self.note("linear", "factors")
        return self._around(x, lambda x: F.linear(x, self.base), self.columns, self.rows, 1)

    def convolve(self, conv: Conv, x: Tensor, transposed: bool, groups: int) -> Tensor:
        if groups > 1 or x.ndim != len(self.shape):
            return super().convolve(conv, x, transposed, groups)
        self.note("conv", "factors")
        inputs, outputs = (self.rows, self.columns) if transposed else (self.columns, self.rows)
        axes = len(self.shape) - 1
        return self._around(x, lambda x: conv(x, self.base, 1), inputs, outputs, axes)

    def _around(
        self,
        x: Tensor,
        layer: Callable[[Tensor], Tensor],
        inputs: Tensor | None,
        outputs: Tensor | None,
        axes: int,
    ) -> Tensor:
        """Scale what goes into a shared layer and what comes out; channels are axis `-axes`."""
        if inputs is not None:
            x = x * self._factor(inputs, x, axes)
        y = layer(x)
        return y if outputs is None else y * self._factor(outputs, y, axes)

    def _factor(self, numbers: Tensor, x: Tensor, axes: int) -> Tensor:
        ones = numbers.reshape(*numbers.shape, *(1,) * (axes - 1))
        # In the layer's dtype: under autocast that is what a plain layer would return.
        return self.lift(ones, x, axes).to(x.dtype)

    def embed(self, ids: Tensor, **options: Any) -> Tensor:
        self.note("embedding", "factors")
        vectors = F.embedding(ids, self.base, **options)
        if self.rows is not None and self.by is None:
            vectors = vectors * self.rows[ids].unsqueeze(-1)
        elif self.rows is not None:
            vectors = vectors * self.look_up(ids, self.rows.unsqueeze(-1))
        return vectors if self.columns is None else vectors * self.lift(self.columns, vectors, 1)


@dataclass
class ShiftedWeight(Weight):
    """`base + s` with a number for each row of a matrix, or for each column.

    Attributes:
        base: `(O, I)`, shared.
        shift: `(*lead, O)`, or `(*lead, I)`.
        columns: Whether there is one for each column.
    """

    base: Tensor
    shift: Tensor
    columns: bool = False

    @property
    def owned(self) -> tuple[Tensor, ...]:
        return (self.shift,)

    def with_owned(self, tensors: tuple[Tensor, ...]) -> Weight:
        return replace(self, shift=tensors[0], lead=0)

    def dense(self) -> Tensor:
        return self.base + self.shift.unsqueeze(-2 if self.columns else -1)

    def turned(self) -> Weight:
        shape = torch.Size(reversed(self.shape))
        return replace(self, shape=shape, base=self.base.mT, columns=not self.columns)

    def linear(self, x: Tensor) -> Tensor:
        self.note("linear", "factors")
        y = F.linear(x, self.base)
        if self.columns:
            return y + (x * self.lift(self.shift, x, 1)).sum(-1, keepdim=True).to(y.dtype)
        shift = self.lift(self.shift, x, 1).to(y.dtype)
        return y + x.sum(-1, keepdim=True).to(y.dtype) * shift

    def embed(self, ids: Tensor, **options: Any) -> Tensor:
        if self.by is None or self.columns:
            return super().embed(ids, **options)
        self.note("embedding", "factors")
        return F.embedding(ids, self.base, **options) + self.look_up(
            ids, self.shift.unsqueeze(-1), **options
        )
