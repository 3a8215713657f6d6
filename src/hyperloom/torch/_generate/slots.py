"""Slot embeddings beside condition vectors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom._core.records import Head, SlotTable
from hyperloom.torch._generate.table import unit_rows


def with_slots(vector: Tensor, slots: Tensor | None) -> Tensor:
    """Put each slot embedding beside the condition: `(*batch, C, E + w)`.

    Args:
        vector: `(*batch, E)`.
        slots: `(C, w)` or `(*batch, C, w)`; `None` for one slot without embedding, which gives
            the vector as it is.
    """
    if slots is None:
        return vector
    batch, num = vector.shape[:-1], slots.shape[-2]
    wide = vector.unsqueeze(-2).expand(*batch, num, -1)
    return torch.cat([wide, slots.expand(*batch, num, -1)], dim=-1)


class LinearTrunk(nn.Module):
    """No trunk: the features are the condition, with the slot embedding beside it."""

    def forward(self, vector: Tensor, slots: Tensor | None) -> Tensor:
        return with_slots(vector, slots)


class SlotTables(nn.Module):
    """The tables that say what slots are; heads share them.

    The learned ones are parameters, by the names that the plan gives them. The others follow from
    the plan, and are not saved.
    """

    def __init__(self, tables: tuple[SlotTable, ...]) -> None:
        super().__init__()
        self.fixed: dict[str, Tensor] = {}
        for table in tables:
            if table.learned:
                rows = nn.Parameter(torch.empty(len(table.values), table.width))
                with torch.no_grad():
                    rows.copy_(unit_rows(rows))
                self.register_parameter(table.name, rows)
            else:
                self.fixed[table.name] = torch.from_numpy(table.rows())

    def embeddings(self, head: Head, places: list[Tensor], like: Tensor) -> Tensor:
        """Return the embeddings `(C, w)` of a head's slots, of the dtype of `like`.

        Args:
            head: The head.
            places: For each part of the embeddings the row of each slot `(C,)`.
            like: A tensor of the dtype and on the device that they are wanted in.
        """
        parts = []
        for part, rows in zip(head.lookups, places, strict=True):
            fixed = self.fixed.get(part.table.name)
            table = getattr(self, part.table.name) if fixed is None else fixed.to(like)
            parts.append(F.embedding(rows.to(table.device), table))
        if not head.summed:
            return torch.cat(parts, -1)
        return torch.stack(parts).sum(0) / math.sqrt(len(parts))
