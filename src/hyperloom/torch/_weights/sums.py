"""A sum of templates with a base: the weight that a linear head, or a bank of templates, gives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom._core.errors import message
from hyperloom._core.plan.cost import Layer
from hyperloom.torch._weights.choose import choose
from hyperloom.torch._weights.weights import Conv, Weight


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
    # All sizes said: without rows there are no numbers to tell one from.
    numbers = x.reshape(*x.shape[:lead], math.prod(x.shape[lead:]), 1)
    products = torch.matmul(numbers, coefficients.unsqueeze(-2))
    return products.reshape(*x.shape[:-1], x.shape[-1] * coefficients.shape[-1])


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
