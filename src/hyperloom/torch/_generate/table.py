"""A learned row for each id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Table(nn.ParameterList):
    """Learned rows, looked up by id. New rows are a new parameter: the old ones stay as they are.

    An optimiser that holds the old rows goes on training them; it is given the new parameter
    by the user (`optimizer.add_param_group`).
    """

    def __init__(self, num: int, *shape: int) -> None:
        rows = torch.empty(num, *shape)
        # Rows without numbers (Ids) are not learned: DDP would wait for their gradient.
        super().__init__([nn.Parameter(rows, requires_grad=rows.numel() > 0)])

    def rows(self) -> Tensor:
        """Return all rows, `(num, *shape)`."""
        return self[0] if len(self) == 1 else torch.cat(list(self))

    @property
    def num(self) -> int:
        """Number of rows."""
        return sum(len(block) for block in self)

    def look_up(self, ids: Tensor) -> Tensor:
        """Return `(*batch, *shape)` for ids `(*batch,)`."""
        rows = self.rows()
        if rows.ndim == 2:
            return F.embedding(ids, rows)
        return F.embedding(ids, rows.flatten(1)).unflatten(-1, rows.shape[1:])

    def grow(self, rows: Tensor) -> nn.Parameter:
        """Append rows `(num, *shape)`; return the new parameter."""
        self.append(nn.Parameter(rows, requires_grad=rows.numel() > 0))
        return self[-1]


def unit_rows(like: Tensor) -> Tensor:
    """Return normal draws of `like`'s shape whose last axis has root mean square 1 exactly."""
    if like.is_meta:  # no numbers to draw; and torch loads its decompositions for the products
        return like
    draw = torch.randn_like(like)
    return draw * draw.square().mean(-1, keepdim=True).rsqrt()


def grow_rows(table: Table, num: int, fill: Callable[[Tensor], Any]) -> nn.Parameter:
    """Append `num` rows that `fill` fills; return the new parameter."""
    rows = table[0].detach().new_empty(num, *table[0].shape[1:])
    fill(rows)
    return table.grow(rows)
