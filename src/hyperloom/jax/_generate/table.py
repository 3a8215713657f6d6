"""A learned row for each id."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from hyperloom.jax._target.variables import Param


@jax.jit  # one program, where a call outside `jit` would compile a dozen operations one by one
def look_up(rows: Array, ids: Array) -> Array:
    """Return the rows `(*batch, *shape)` of ids `(*batch,)`; NaN for an id that has none."""
    inside = (ids >= 0) & (ids < rows.shape[0])
    known = jnp.where(inside, ids, 0)
    rows_of_ids = rows.at[known].get(out_sharding=_sharding_of(ids, rows.ndim - 1))
    ones = (1,) * (rows.ndim - 1)
    return jnp.where(inside.reshape(*ids.shape, *ones), rows_of_ids, jnp.nan)


def _sharding_of(ids: Array, rest: int) -> NamedSharding | None:
    """Return how rows of ids lie on an explicit mesh: as the ids do; `None` for JAX to tell."""
    sharding = jax.typeof(ids).sharding
    if not any(axis is not None for axis in sharding.spec):
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec, *[None] * rest))


class Table(nnx.Module):
    """Learned rows, looked up by id. New rows are a new parameter: the old ones stay as they are.

    Args:
        rows: The rows there are, `(num, *shape)`.
    """

    def __init__(self, rows: Array) -> None:
        self.blocks = nnx.List([nnx.Param(rows)])

    def rows(self) -> Array:
        """Return all rows, `(num, *shape)`."""
        blocks = [block[...] for block in self.blocks]
        return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks)

    @property
    def num(self) -> int:
        """Number of rows."""
        return sum(block.shape[0] for block in self.blocks)

    def look_up(self, ids: Array) -> Array:
        """Return `(*batch, *shape)` for ids `(*batch,)`.

        An id out of range, which cannot be refused where values are traced, gives NaN.
        """
        return look_up(self.rows(), ids)

    def grow(self, rows: Array) -> Param:
        """Append rows `(num, *shape)`; return the new parameter."""
        self.blocks.append(nnx.Param(rows))
        return self.blocks[-1]
