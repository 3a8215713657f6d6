"""One call: its inputs paired with the conditions, and what else each condition brings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hyperloom._core.errors import message
from hyperloom.jax._arrays import is_array
from hyperloom.jax._target.adaptor import Method

Dims = int | tuple[Any, ...] | None


@dataclass(frozen=True, eq=False)
class PairedInputs:
    """The inputs of the target in one call, checked against the batch of conditions.

    Attributes:
        paired: The arrays that pair with conditions, `(B, ...)` each; `()` has nothing in front.
        shared: The arrays that all conditions share.
    """

    paired: list[Array]
    shared: list[Array]
    _places: tuple[list[int], list[int]]
    _others: list[Any]
    _tree: Any

    @classmethod
    def of(
        cls, batch: tuple[int, ...], inputs: tuple[Any, ...], in_axes: Dims, kwargs: dict[str, Any]
    ) -> PairedInputs:
        """Pair inputs with a batch of conditions.

        Args:
            batch: Dimensions of the batch; `()` for one condition.
            inputs: Positional inputs of the target.
            in_axes: As in `HyperNetwork.__call__`.
            kwargs: Keyword inputs of the target.

        Raises:
            ValueError: Inputs that do not pair with the conditions.
        """
        each = isinstance(in_axes, (tuple, list))
        if isinstance(in_axes, (tuple, list)) and len(in_axes) != len(inputs):
            got = f"{len(in_axes)} entries for {len(inputs)} inputs"
            raise ValueError(message("in_axes", got, "an entry for each positional input"))
        of_inputs = in_axes if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(inputs)
        found = [
            leaf
            for i, (value, dims) in enumerate(zip(inputs, of_inputs, strict=True))
            for leaf in _leaves(value, dims, f"input {i}")
        ]
        for key, value in sorted(kwargs.items()):  # the order of the leaves
            found += _leaves(value, 0 if each else in_axes, key)
        leaves, tree = jax.tree.flatten((inputs, kwargs))
        places = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
        others = [None if is_array(leaf) else leaf for leaf in leaves]
        paired, shared, where = [], [], ([], [])
        for place, (name, array, dim) in zip(places, found, strict=True):
            pairs = bool(batch) and dim is not None
            (paired if pairs else shared).append(
                _in_front(name, array, dim, batch) if pairs else array
            )
            where[0 if pairs else 1].append(place)
        return cls(paired, shared, where, others, tree)

    def rebuild(
        self, paired: list[Array], shared: list[Array]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword inputs with these arrays in their places."""
        leaves = list(self._others)
        for places, arrays in zip(self._places, (paired, shared), strict=True):
            for place, array in zip(places, arrays, strict=True):
                leaves[place] = array
        return jax.tree.unflatten(self._tree, leaves)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of the target.

    Attributes:
        batch: Dimensions of the batch of conditions; `()` for one condition.
        inputs: Its inputs.
        keys: For each random stream of the target a key, `(B,)`; for one condition, `()`.
        state: The target's state, `{name: (B, *shape)}`; what it does not name is its own.
        mutable: Whether the state after the call is wanted.
        method: What of the target is called; `None` for the target itself.
    """

    batch: tuple[int, ...]
    inputs: PairedInputs
    keys: Mapping[str, Array] = field(default_factory=dict[str, Array])
    state: Mapping[str, Array] = field(default_factory=dict[str, Array])
    mutable: bool = False
    method: Method = None

    @property
    def num(self) -> int:
        """Number of conditions."""
        return math.prod(self.batch)

    def slices(self) -> tuple[list[Array], dict[str, Array], dict[str, Array]]:
        """Return all that has a slice for each condition, as a tree of arrays `(B, ...)`."""
        return self.inputs.paired, dict(self.keys), dict(self.state)

    def with_slices(self, slices: Any, batch: tuple[int, ...]) -> Call:
        """Return the call for other conditions, with what `slices` returned for those."""
        paired, keys, state = slices
        inputs = replace(self.inputs, paired=paired)
        return replace(self, batch=batch, inputs=inputs, keys=keys, state=state)

    def rows(self) -> int:
        """Guess how many rows each condition has, from the first paired input `(B, *n, I)`."""
        for array in self.inputs.paired:
            return max(1, math.prod(array.shape[1:-1]))
        return 1


def _leaves(tree: Any, dims: Any, name: str) -> Iterator[tuple[str, Any, int | None]]:
    """Yield name, array and dimension of all arrays in a tree, in the order of its leaves."""
    if dims is None or type(dims) is int:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if is_array(leaf):
                yield f"{name}{jax.tree_util.keystr(path)}", leaf, dims
    elif isinstance(dims, dict) and isinstance(tree, dict):
        for key in sorted(tree):
            yield from _leaves(tree[key], dims.get(key), f"{name}[{key!r}]")
    elif isinstance(dims, (tuple, list)) and isinstance(tree, (tuple, list)):
        if len(dims) != len(tree):
            got = f"{len(dims)} entries for {len(tree)} inputs"
            raise ValueError(message("in_axes", got, "an entry for each positional input"))
        for i, (part, dim) in enumerate(zip(tree, dims, strict=True)):
            yield from _leaves(part, dim, f"{name}[{i}]")
    else:
        wanted = "an int or None, or a tuple with an entry for each positional input"
        raise TypeError(message("in_axes", repr(dims), wanted))


def _in_front(name: str, array: Any, dim: Any, batch: tuple[int, ...]) -> Array:
    """Return an array `(B, ...)` of one whose dimensions of the batch stand at `dim`.

    Raises:
        ValueError: It does not have them there.
    """
    shape = list(array.shape)
    for size in batch:
        if not -len(shape) <= dim < len(shape) or shape[dim] != size:
            way_out = "For one input that all conditions share, pass in_axes=None."
            wanted = f"{size} at dimension {dim}, one slice for each condition of the batch"
            got = f"shape {tuple(array.shape)} beside conditions {batch}"
            raise ValueError(message(name, got, wanted, way_out))
        del shape[dim]
    for done in range(len(batch)):
        axis = dim + done if dim >= 0 else dim
        array = array if axis == done else jnp.moveaxis(array, axis, done)
    return flat_batch(array, batch)


def flat_batch(array: Array, batch: tuple[int, ...]) -> Array:
    """Return `(*batch, ...)` as `(B, ...)`; one condition has no `B`."""
    if len(batch) <= 1:
        return jnp.asarray(array)
    return jnp.reshape(array, (math.prod(batch), *array.shape[len(batch) :]))


def unflat_batch(array: Array, batch: tuple[int, ...]) -> Array:
    """Return `(B, ...)` as `(*batch, ...)`."""
    return array if len(batch) <= 1 else jnp.reshape(array, (*batch, *array.shape[1:]))
