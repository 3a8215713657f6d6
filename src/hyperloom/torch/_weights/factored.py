"""Weights from a few factors: products of thin matrices, scales and shifts of a shared base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom.torch._weights.weights import Conv, Weight

_FEW = 9  # rows of one condition, below which a factor is worth being laid out for them


@dataclass
class LowRankWeight(Weight):
    """`base + factor * U V`.

    Attributes:
        u: `(*lead, O, R)`.
        v: `(*lead, R, I)`.
        factor: A number on the product.
        base: `(*shape)`, shared, or `None`.
        u_turned: `u` with its last axes turned and laid out so, where few inputs meet it.
    """

    u: Tensor
    v: Tensor
    factor: float = 1.0
    base: Tensor | None = None
    u_turned: Any = field(default=None, init=False, repr=False)

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
        return self._linear(x, None)

    def affine(self, x: Tensor, bias: Tensor) -> Tensor:
        return self._linear(x, bias)

    def _linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.by is not None and self.base is not None:
            self.note("linear", "factors")
            y, rows = F.linear(x, self.base, bias), self.by.fit(len(x))
            few = x.numel() < _FEW * self.num * self.shape[1]
            if few and not torch.is_grad_enabled():
                if self.u_turned is None:  # a token after the other meets it
                    self.u_turned = self.u.mT.contiguous()
                return rows.add_products(y, x, self.v, self.u_turned.mT, self.factor)
            return rows.add_products(y, x, self.v, self.u, self.factor)
        rank, (outputs, inputs) = self.u.shape[-1], self.shape
        rows = self.rows_in(x, 1)
        # Forming costs rank for each weight, applying costs rows; the factors cost rank each row.
        dearer = rows * rank * (outputs + inputs) > (rank + rows) * outputs * inputs
        if dearer and self.by is None and not self.packed:
            return super().linear(x) if bias is None else super().affine(x, bias)
        self.note("linear", "factors")
        low = self.product(x, self.v)
        result = self.product(low * self.factor if self.factor != 1.0 else low, self.u)
        if self.base is not None:
            return F.linear(x, self.base, bias) + result
        return result if bias is None else result + bias

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
        outputs = outputs.unflatten(2, low.shape[2:])
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
