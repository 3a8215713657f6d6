"""Slot embeddings beside condition vectors."""

from __future__ import annotations

import torch
from torch import Tensor


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
