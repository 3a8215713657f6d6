"""One condition after the other, also where an explicit mesh cuts the conditions over devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def mapped(function: Callable[[Any], Any], slices: Any) -> Any:
    """Run `function` on one slice of `slices`, `(B, ...)` each, after the other.

    `lax.map` refuses arrays that an explicit mesh cuts at the dimension it goes along: see
    `whole_on_each`.
    """
    return whole_on_each(lambda whole: jax.lax.map(function, whole), slices)


def whole_on_each(function: Callable[[Any], Any], slices: Any) -> Any:
    """Run `function` on arrays `(B, ...)` that are not cut at `B`; cut what it returns again.

    Every device of an explicit mesh then has all conditions, and does the same work as the others.
    """
    leaves = jax.tree.leaves(slices)
    cut = next((s for s in map(_sharding, leaves) if s.spec and s.spec[0] is not None), None)
    if cut is None:
        return function(slices)
    outputs = function(jax.tree.map(lambda a: _laid(a, _sharding(a), None), slices))
    return jax.tree.map(lambda a: _laid(a, cut, cut.spec[0]), outputs)


def _sharding(array: Any) -> NamedSharding:
    return jax.typeof(array).sharding


def _laid(array: Any, like: NamedSharding, first: Any) -> Any:
    """Return an array on the mesh of `like`, its first dimension cut along the axes `first`."""
    spec = PartitionSpec(first, *_sharding(array).spec[1:])
    if like.mesh.empty or _sharding(array).spec == spec:
        return array
    return jax.sharding.reshard(array, NamedSharding(like.mesh, spec))
