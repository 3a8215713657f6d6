"""Slot embeddings beside conditions."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.records import Head, SlotTable
from hyperloom.jax._generate.draws import Start


def with_slots(vector: Array, slots: Array | None) -> Array:
    """Put each slot embedding beside the condition: `(*batch, C, E + w)`.

    Args:
        vector: `(*batch, E)`.
        slots: `(C, w)` or `(*batch, C, w)`; `None` for one slot without embedding.
    """
    if slots is None:
        return vector[..., None, :]
    batch, (num, width) = vector.shape[:-1], slots.shape[-2:]
    wide = jnp.broadcast_to(vector[..., None, :], (*batch, num, vector.shape[-1]))
    return jnp.concatenate([wide, jnp.broadcast_to(slots, (*batch, num, width))], axis=-1)


class LinearTrunk(nnx.Module):
    """No trunk: the features are the condition, with the slot embedding beside it."""

    def __call__(
        self, vector: Array, slots: Array | None, key: Array | None = None, ids: Array | None = None
    ) -> Array:
        return with_slots(vector, slots)


def make_tables(tables: tuple[SlotTable, ...], start: Start) -> nnx.Dict[Any]:
    """Make the learned tables that say what slots are, which heads share, by name."""
    learned = [table for table in tables if table.learned]
    shapes = {table.name: (len(table.values), table.width) for table in learned}
    return nnx.Dict({name: nnx.Param(start.unit_rows(shape)) for name, shape in shapes.items()})


def told(head: Head, tables: Any, dtype: Any) -> Array:
    """Return the embeddings `(C, w)` of a head's slots from the tables that say what they are."""
    parts = []
    for part in head.lookups:
        table, rows = part.table, np.asarray(part.rows)
        known = tables[table.name][...] if table.learned else jnp.asarray(table.rows(), dtype)
        parts.append(known[rows])
    if not head.summed:
        return jnp.concatenate(parts, axis=-1)
    return sum(parts[1:], parts[0]) / math.sqrt(len(parts))
