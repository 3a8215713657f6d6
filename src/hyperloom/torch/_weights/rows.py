"""Rows of one batch that belong to different conditions: which row has which.

Legend of suffixes: B conditions, L rows, I inputs, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


class NotRowsError(RuntimeError):
    """A tensor's first axis is not the rows of the call, or a function has no rule for rows."""


class Rows:
    """The condition of each row of a batch.

    Rows of one condition are a block where all conditions have equally many and they come in
    order; else they are brought together before a product and put back after it. A matrix is
    never copied for each row, a vector may be.

    Args:
        num: Conditions `B`.
        counts: Rows of each condition, `B` numbers.
        index: `(L,)`, the condition of each row; `None` where they come in order.
    """

    def __init__(self, num: int, counts: Sequence[int], index: Tensor | None = None) -> None:
        self.num, self.counts, self.index = num, tuple(counts), index
        self.size = sum(self.counts)
        self.equal = index is None and len(set(self.counts)) <= 1
        self._repeated: dict[int, Rows] = {1: self}
        self._condition_of_row: Tensor | None = None

    @classmethod
    def of(cls, num: int, index: Tensor) -> Rows:
        """Return the rows of an index `(L,)` with values in `0 .. num - 1`; looks at them."""
        counts = torch.bincount(index, minlength=num).tolist()
        in_order = bool((index[1:] >= index[:-1]).all())
        return cls(num, counts, None if in_order else index)

    @classmethod
    def blocks(cls, num: int, count: int) -> Rows:
        """Return `count` rows for every condition, in order."""
        return cls(num, (count,) * num)

    def fit(self, size: int) -> Rows:
        """Return the rows of a first axis of another size: every row `k` times in place.

        Beams are, and so is what comes of flattening further axes into the first.

        Raises:
            NotRowsError: A size that is no multiple of the rows.
        """
        times, rest = divmod(size, self.size) if self.size else (1, size)
        if rest:
            raise NotRowsError(f"a first axis of {size} beside {self.size} rows")
        if times not in self._repeated:
            index = self.index
            index = None if index is None else index.repeat_interleave(times)
            self._repeated[times] = Rows(self.num, [times * n for n in self.counts], index)
        return self._repeated[times]

    # ---- where the rows of one condition are --------------------------------------------------

    def condition_of_row(self, device: torch.device) -> Tensor:
        """Return the condition of each row, `(L,)`."""
        if self.index is not None:
            return self.index.to(device)
        if self._condition_of_row is None or self._condition_of_row.device != device:
            counts = torch.tensor(self.counts, device=device)
            conditions = torch.arange(self.num, device=device)
            self._condition_of_row = conditions.repeat_interleave(counts, output_size=self.size)
        return self._condition_of_row

    @cached_property
    def _order(self) -> tuple[Tensor, Tensor]:
        """What brings the rows of one condition together, and what puts them back."""
        assert self.index is not None
        order = self.index.argsort(stable=True)
        return order, order.argsort()

    @cached_property
    def _ends(self) -> Tensor:
        """Where the rows of each condition end, as the grouped product wants it."""
        device = None if self.index is None else self.index.device
        return torch.tensor(self.counts, device=device).cumsum(0).to(torch.int32)

    def together(self, x: Tensor) -> Tensor:
        """Bring the rows of each condition together."""
        return x if self.index is None else x.index_select(0, self._order[0])

    def apart(self, x: Tensor) -> Tensor:
        """Put rows that were brought together back to their places."""
        return x if self.index is None else x.index_select(0, self._order[1])

    def present(self) -> list[int]:
        """Return the conditions that have a row."""
        return [i for i, count in enumerate(self.counts) if count]

    # ---- what meets the rows ------------------------------------------------------------------

    def gather(self, value: Tensor) -> Tensor:
        """Return for each row what its condition has: `(B, *n)` -> `(L, *n)`. Not for matrices."""
        if not self.equal:
            return value.index_select(0, self.condition_of_row(value.device))
        count, rest = self.counts[0] if self.counts else 0, value.shape[1:]
        if count == 1:
            return value
        return value.unsqueeze(1).expand(-1, count, *rest).reshape(self.size, *rest)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Apply to each row the matrix of its condition: `(L, *n, I) (B, O, I)` -> `(L, *n, O)`."""
        inputs, outputs = x.shape[-1], weight.shape[-2]
        if self.equal:
            blocks = x.reshape(self.num, math.prod(x.shape[:-1]) // self.num, inputs)
            if blocks.shape[1] > inputs:  # fewer numbers in a matrix than in its outputs
                return torch.bmm(blocks, weight.mT).reshape(*x.shape[:-1], outputs)
            # Weight times rows: the weight's gradient comes out in the weight's own layout.
            return torch.bmm(weight, blocks.mT).mT.reshape(*x.shape[:-1], outputs)
        near = self.together(x)
        flat = near.reshape(-1, inputs)
        times = len(flat) // max(1, self.size)
        if _groups(flat, weight):
            ends = self._ends.to(flat.device) * times
            product = F.grouped_mm(flat, weight.mT, offs=ends.to(torch.int32))
            result: Any = _Whole.apply(product)
        else:
            parts = zip(flat.split([times * n for n in self.counts]), weight.unbind(), strict=True)
            result = torch.cat([F.linear(part, matrix) for part, matrix in parts])
        return self.apart(result.reshape(*near.shape[:-1], outputs))

    def add_products(self, y: Tensor, x: Tensor, v: Tensor, u: Tensor, factor: float) -> Tensor:
        """Return `y + factor * x V^T U^T`, where it can in one pass over `y`.

        Args:
            y: `(L, *n, O)`.
            x: `(L, *n, I)`.
            v: `(B, R, I)`.
            u: `(B, O, R)`.
            factor: A number.
        """
        if not self.equal or not y.dtype == x.dtype == u.dtype:
            low = self.product(x, v)
            return y + self.product(low * factor if factor != 1.0 else low, u)
        num = self.num
        low = torch.bmm(x.reshape(num, -1, x.shape[-1]), v.mT)
        near = y.reshape(num, -1, y.shape[-1])
        return torch.baddbmm(near, low, u.mT, alpha=factor).reshape(y.shape)

    def look_up(self, ids: Tensor, table: Tensor) -> Tensor:
        """Look up each row's ids in the table of its condition: `(L, *n) (B, V, D)`."""
        size = table.shape[1]
        if not torch.compiler.is_compiling() and ids.device.type == "cpu" and ids.numel():
            low, high = torch.aminmax(ids)
            if low < 0 or high >= size:  # else it would be a row of another condition's table
                raise IndexError("index out of range in self")
        places = self.condition_of_row(ids.device).reshape(-1, *(1,) * (ids.ndim - 1)) * size
        return F.embedding(ids + places, table.flatten(0, 1))

    def convolve(self, conv: Callable[..., Tensor], x: Tensor, kernel: Tensor) -> Tensor:
        """Apply to each row the kernel of its condition.

        Args:
            conv: `conv(x, kernel, times)`, with `times` as many groups as it has.
            x: `(L, C, *spatial)`.
            kernel: `(B, *kernel)`.
        """
        if not self.equal:
            return self.segments(lambda x, weight: conv(x, weight, 1), (x,), (kernel,))
        count = len(x) // self.num
        beside = x.unflatten(0, (self.num, count)).transpose(0, 1).flatten(1, 2)
        outputs = conv(beside, kernel.flatten(0, 1), self.num)
        apart = outputs.unflatten(1, (self.num, outputs.shape[1] // self.num))
        return apart.transpose(0, 1).flatten(0, 1)

    def segments(
        self, function: Callable[..., Any], rows: tuple[Tensor, ...], values: tuple[Tensor, ...]
    ) -> Any:
        """Call a function for each condition on its rows: `function(*rows, *values)`.

        Args:
            function: Returns a tensor with the rows in front, or several.
            rows: Tensors `(L, ...)`.
            values: Tensors `(B, ...)`.
        """
        parts = [self.together(x).split(self.counts) for x in rows]
        results = [
            function(*(part[i] for part in parts), *(value[i] for value in values))
            for i in self.present() or [0]  # without any rows, one says what comes out
        ]
        flat, trees = zip(*(tree_flatten(result) for result in results), strict=True)
        whole = [self.apart(torch.cat(tensors)) for tensors in zip(*flat, strict=True)]
        return tree_unflatten(whole, trees[0])


def _groups(x: Tensor, weight: Tensor) -> bool:
    """Whether PyTorch's grouped product takes these: dtypes, and rows of whole 16 bytes."""
    if x.dtype != weight.dtype or not hasattr(F, "grouped_mm"):
        return False
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    if torch.is_autocast_enabled(x.device.type):
        return False
    sizes = (*weight.shape[1:], weight.stride(0))
    return all(size * x.element_size() % 16 == 0 for size in sizes) and weight.stride(-1) == 1


class _Whole(torch.autograd.Function):
    """Gives the grouped product a gradient that it takes: one with strides of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous()
