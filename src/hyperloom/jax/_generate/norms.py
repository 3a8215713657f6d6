"""Batch norm in trunks: over all rows, or over those of each condition id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.errors import message
from hyperloom.jax._generate.draws import Start
from hyperloom.jax._target.variables import is_traced

_MOMENTUM = 0.1  # the share of what is new in running statistics, as PyTorch has it


class BatchNorm(nnx.Module):
    """Standardises features over all other axes, with scale and shift.

    Args:
        width: Number of features.
        start: Where the start of learned numbers comes from.
    """

    def __init__(self, width: int, start: Start) -> None:
        self.norm_weight = nnx.Param(start.ones((width,)))
        self.norm_bias = nnx.Param(start.zeros((width,)))
        make_statistics(self, (width,), start)

    def __call__(self, x: Array, axis: int) -> Array:
        """Standardise `x`, whose features are on `axis`."""
        ones = [1] * x.ndim
        ones[axis] = -1
        scale, shift = (v[...].reshape(ones) for v in (self.norm_weight, self.norm_bias))
        return over_rows(self, x, axis) * scale + shift


def make_statistics(owner: Any, shape: tuple[int, ...], start: Start) -> None:
    """Give a module running statistics, and the flag by which `eval()` switches to them."""
    owner.use_running_average = False
    owner.norm_mean = nnx.BatchStat(start.zeros(shape))
    owner.norm_var = nnx.BatchStat(start.ones(shape))


def over_rows(owner: Any, x: Array, axis: int = -1) -> Array:
    """Standardise over all axes but that of the features, and keep running statistics."""
    axis %= x.ndim
    axes = tuple(i for i in range(x.ndim) if i != axis)
    mean, var = owner.norm_mean[...], owner.norm_var[...]
    if not owner.use_running_average:
        now, rows = (jnp.mean(x, axes), jnp.var(x, axes)), x.size // x.shape[axis]
        kept = jax.lax.stop_gradient((now[0], now[1] * (rows / max(rows - 1, 1))))
        owner.norm_mean[...] = (1 - _MOMENTUM) * mean + _MOMENTUM * kept[0]
        owner.norm_var[...] = (1 - _MOMENTUM) * var + _MOMENTUM * kept[1]
        mean, var = now
    return standard(x, jnp.expand_dims(mean, axes), jnp.expand_dims(var, axes))


def standard(x: Array, mean: Array, var: Array) -> Array:
    """Return `x` with its mean taken off, in units of its standard deviation."""
    return (x - mean) * jax.lax.rsqrt(var + 1e-5)


class IdNorm(nnx.Module):
    """Standardises the rows of each condition id among themselves; running statistics by id."""

    def __init__(self, num_ids: int, width: int, start: Start) -> None:
        self.use_running_average = False
        self.norm_mean = nnx.BatchStat(start.zeros((num_ids, width)))
        self.norm_var = nnx.BatchStat(start.ones((num_ids, width)))

    def grow(self, num: int) -> None:
        """Add statistics for new ids."""
        for held, fill in ((self.norm_mean, 0.0), (self.norm_var, 1.0)):
            rows = held[...]
            new = jnp.full((num, rows.shape[1]), fill, rows.dtype)
            held.set_value(jnp.concatenate([rows, new]))

    def __call__(self, x: Array, ids: Array) -> Array:
        """Standardise `(*batch, C, F)` for ids `(*batch,)`.

        Raises:
            ValueError: While training, an id with one row only, which has no variance. Where ids
                are traced and cannot be read, its row is NaN instead.
        """
        num_ids = self.norm_mean.shape[0]
        # Ids out of range, which cannot be refused where they are traced, are nobody's.
        known = jnp.where(ids < 0, num_ids, ids)
        if self.use_running_average:
            held = (self.norm_mean[...], self.norm_var[...])
            mean, var = (v.at[known].get(mode="fill", fill_value=jnp.nan) for v in held)
            return standard(x, mean[..., None, :], var[..., None, :])
        slots, width = x.shape[-2:]
        if slots == 1:
            _refuse_single_rows(ids)
        flat = known.reshape(-1)
        distinct, index, counts = jnp.unique(
            flat, return_inverse=True, return_counts=True, size=flat.size, fill_value=num_ids
        )
        rows = x.reshape(flat.size, slots, width)
        # 0 where there are fewer ids than rows of the batch.
        num = (counts * slots)[:, None].astype(x.dtype)

        def mean_of(values: Array) -> Array:
            total = jnp.zeros((flat.size, width), x.dtype).at[index].add(values.sum(1))
            return total / jnp.maximum(num, 1)

        mean = mean_of(rows)
        centred = rows - mean[index][:, None]
        var = mean_of(jnp.square(centred))
        self._keep(distinct, mean, var, num)
        scale = jnp.where(num > 1, jax.lax.rsqrt(var + 1e-5), jnp.nan)
        return (centred * scale[index][:, None]).reshape(x.shape)

    def _keep(self, distinct: Array, mean: Array, var: Array, num: Array) -> None:
        """Bring the running statistics of the ids at hand nearer to what they were now."""
        var = var * (num / jnp.maximum(num - 1, 1))
        for held, new in ((self.norm_mean, mean), (self.norm_var, var)):
            rows = held[...]
            step = _MOMENTUM * (jax.lax.stop_gradient(new) - rows.at[distinct].get(mode="clip"))
            held[...] = rows.at[distinct].add(jnp.where(num > 1, step, 0), mode="drop")


def _refuse_single_rows(ids: Array) -> None:
    """Raise for an id that occurs once, unless it cannot be seen."""
    if is_traced(ids):
        return
    distinct, counts = np.unique(np.asarray(ids), return_counts=True)
    if (counts == 1).any():
        got = f"one row for the id {int(distinct[counts == 1][0])}, which has no variance"
        way_out = "Use a layout with slots (Chunked, Grouped), or call eval()."
        wanted = "several rows for each id while training"
        raise ValueError(message("MLP(per_condition=)", got, wanted, way_out))


def training(trunks: Iterable[Any]) -> bool:
    """Whether any batch norm in the trunks takes its statistics from the batch at hand."""
    parts = (part for trunk in trunks for _, part in nnx.iter_modules(trunk))
    return any(getattr(part, "use_running_average", True) is False for part in parts)
