"""Slot embeddings beside conditions."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def beside(vector: Array, slots: Array | None) -> Array:
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
