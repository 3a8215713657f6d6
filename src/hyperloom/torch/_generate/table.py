"""A learned row for each id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom._core.errors import message


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

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take the rows of a table that has as many, whatever blocks they came in."""
        lists = missing_keys, unexpected_keys, error_msgs
        names = [name for i in range(len(state_dict)) if (name := f"{prefix}{i}") in state_dict]
        blocks, sizes = [state_dict[name] for name in names], [len(block) for block in self]
        given = [len(block) if block.ndim else 0 for block in blocks]
        if blocks and given != sizes:
            for name in names:
                del state_dict[name]
            if sum(given) == self.num and len({block.shape[1:] for block in blocks}) == 1:
                rows = torch.cat(blocks).split(sizes)
                state_dict.update((f"{prefix}{i}", block) for i, block in enumerate(rows))
            else:
                got, wanted = f"{sum(given)} ids in {prefix[:-1]!r}", f"{self.num} ids"
                more = sum(given) - self.num
                way_out = f"Add {more} first: hnet.add_conditions({more})." if more > 0 else ""
                error_msgs.append(message("state_dict", got, wanted, way_out))
                return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)


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
