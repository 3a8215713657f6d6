"""A low-rank change whose outputs are scaled: the weight of DoRA.

Legend of suffixes as in `weights.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hyperloom.torch._weights.factored import LowRankWeight
from hyperloom.torch._weights.weights import Conv, Weight


@dataclass
class DirectedWeight(Weight):
    """`scale * (base + factor * U V)`, a scale for each output, the first axis.

    Attributes:
        u: `(*lead, O, rank)`.
        v: `(*lead, rank, I)`.
        scale: `(*lead, O)`.
        factor: A number.
        base: `(*shape)`, shared.
    """

    u: Tensor
    v: Tensor
    scale: Tensor
    factor: float
    base: Tensor

    @property
    def owned(self) -> tuple[Tensor, ...]:
        return (self.u, self.v, self.scale)

    def with_owned(self, tensors: tuple[Tensor, ...]) -> Weight:
        u, v, scale = tensors
        return replace(self, u=u, v=v, scale=scale, lead=0)

    def _change(self) -> LowRankWeight:
        """Return the weight before it is scaled."""
        given = (self.name, self.shape, self.num, self.u, self.v, self.factor, self.base)
        change = LowRankWeight(*given, lead=self.lead, by=self.by)
        return replace(change, record=self.record, modes=self.modes)

    def dense(self) -> Tensor:
        ones = (1,) * (len(self.shape) - 1)
        return self._change().dense() * self.scale.reshape(*self.scale.shape, *ones)

    def linear(self, x: Tensor) -> Tensor:
        y = self._change().linear(x)
        return y * self.lift(self.scale, y, 1).to(y.dtype)

    def convolve(self, conv: Conv, x: Tensor, transposed: bool, groups: int) -> Tensor:
        if transposed or x.ndim != len(self.shape):
            return super().convolve(conv, x, transposed, groups)
        y, axes = self._change().convolve(conv, x, transposed, groups), len(self.shape) - 1
        scale = self.scale.reshape(*self.scale.shape, *(1,) * (axes - 1))
        return y * self.lift(scale, y, axes).to(y.dtype)


def directed(named: Any, structure: Any, parts: Any, base: Tensor, record: Any) -> DirectedWeight:
    """Return the weight of a `Directed` structure whose outputs are the first axis."""
    u, v, g = parts
    wide = base.to(torch.promote_types(base.dtype, u.dtype))
    scale = structure.scale((u, v, g), wide)
    name, shape, num = named
    return DirectedWeight(name, shape, num, u, v, scale, structure.factor, base, record=record)
