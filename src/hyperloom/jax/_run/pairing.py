"""Pairing inputs with a batch of conditions: which of their arrays has a slice for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import SequenceKey, keystr, tree_flatten_with_path

from hyperloom._core.backend.inputs import check_entries, entries_of
from hyperloom._core.errors import message, shown
from hyperloom.jax._target.variables import key_of

Dims = int | tuple[Any, ...] | Mapping[Any, Any] | None


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
            TypeError: An input that can neither be paired nor is one setting for all.
            ValueError: Inputs that do not pair with the conditions.
        """
        input_leaves = list(_all_leaves(inputs, in_axes, kwargs))
        leaves, tree = jax.tree.flatten((inputs, kwargs))
        paired, shared, places = [], [], ([], [])
        for i, (leaf, value) in enumerate(zip(input_leaves, leaves, strict=True)):
            array = as_array(value)
            if array is None:
                _refuse_unpaired(leaf, batch)
                continue
            pairs = leaf.pairs(array, batch)
            (paired if pairs else shared).append(_in_front(leaf, array, batch) if pairs else array)
            places[0 if pairs else 1].append(i)
            leaves[i] = None
        return cls(paired, shared, places, leaves, tree)

    def rebuild(
        self, paired: list[Array], shared: list[Array]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword inputs with these arrays in their places."""
        leaves = list(self._others)
        for places, arrays in zip(self._places, (paired, shared), strict=True):
            for place, array in zip(places, arrays, strict=True):
                leaves[place] = array
        return jax.tree.unflatten(self._tree, leaves)


@dataclass(frozen=True)
class _Leaf:
    """A leaf of the inputs.

    Attributes:
        root: The input it is in: its place, or its keyword.
        name: How errors call it.
        path: Its path in that input.
        value: The leaf.
        dim: The dimension that pairs with the conditions, or `None`.
    """

    root: int | str
    name: str
    path: tuple[Any, ...]
    value: Any
    dim: int | None

    def pairs(self, array: Any, batch: tuple[int, ...]) -> bool:
        """Whether an array has a slice for each condition; one number is for all of them."""
        return bool(batch) and self.dim is not None and np.ndim(array) > 0

    @property
    def way_out(self) -> str:
        return f"If all conditions share it, pass in_axes={{{self.root!r}: None}}."


def _all_leaves(inputs: tuple[Any, ...], in_axes: Dims, kwargs: dict[str, Any]) -> Iterator[_Leaf]:
    """Yield the leaves of all inputs, in the order of the leaves of `(inputs, kwargs)`."""
    places, named = entries_of("in_axes", inputs, kwargs, in_axes)
    for place, (value, dims) in enumerate(zip(inputs, places, strict=True)):
        yield from _leaves(place, f"input {place}", (), value, dims)
    for name, value in sorted(kwargs.items()):
        yield from _leaves(name, name, (), value, named[name])


def _leaves(
    root: int | str, name: str, path: tuple[Any, ...], tree: Any, dims: Any
) -> Iterator[_Leaf]:
    """Yield the leaves of one input, in order; `dims` is for all of them or mirrors their tree."""
    if dims is None or type(dims) is int:
        for below, value in tree_flatten_with_path(tree)[0]:
            yield _Leaf(root, f"{name}{keystr(below)}", (*path, *below), value, dims)
        return
    parts = _children(tree)
    if parts is None or not isinstance(dims, (Mapping, tuple, list, type(tree))):
        wanted = "an int or None, a tuple with an entry for each positional input, or a dict"
        raise TypeError(message("in_axes", f"{shown(dims)} for {name}", wanted))
    if isinstance(dims, Mapping):
        wanted = dims
    elif isinstance(dims, (tuple, list)) and not hasattr(dims, "_fields"):
        wanted = dict(enumerate(dims))
        parts = dict(enumerate(parts.values()))
    else:
        wanted = {key: value for key, (_, value) in (_children(dims) or {}).items()}
    check_entries("in_axes", name, wanted, parts)
    for key, (step, value) in parts.items():
        yield from _leaves(root, f"{name}{keystr((step,))}", (*path, step), value, wanted[key])


def _children(tree: Any) -> dict[Any, tuple[Any, Any]] | None:
    """Return the parts of a tree by key, in order, with their steps; `None` for a leaf."""
    children, _ = tree_flatten_with_path(tree, is_leaf=lambda value: value is not tree)
    if len(children) == 1 and not children[0][0]:
        return None
    return {key_of(path[0]): (path[0], value) for path, value in children}


def as_array(value: Any) -> Any:
    """Return an array of JAX or NumPy, or an object that JAX takes for one; else `None`."""
    if isinstance(value, Array):
        return value
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind not in "OUSM" else None  # objects, strings, dates
    return jnp.asarray(value) if hasattr(value, "__jax_array__") else None


_SETTINGS = (bool, int, float, complex, str, bytes, Enum, np.generic, np.dtype, type)


def _refuse_unpaired(leaf: _Leaf, batch: tuple[int, ...]) -> None:
    """Raise for what is no array, unless it is one setting for all conditions.

    A list of numbers or strings may have one for each condition: nobody knows.
    """
    if not batch or leaf.dim is None:
        return
    listed = bool(leaf.path) and isinstance(leaf.path[-1], SequenceKey)
    if (isinstance(leaf.value, _SETTINGS) or callable(leaf.value)) and not listed:
        return
    kind = type(leaf.value)
    got = "a list or tuple of values" if listed else f"a {kind.__module__}.{kind.__qualname__}"
    wanted = "arrays of JAX or NumPy, one slice for each condition of the batch"
    raise TypeError(message(leaf.name, got, wanted, leaf.way_out))


def _in_front(leaf: _Leaf, array: Any, batch: tuple[int, ...]) -> Array:
    """Return an array `(B, ...)` of one whose dimensions of the batch stand at `dim`.

    Raises:
        ValueError: It does not have them there.
    """
    dim: Any = leaf.dim
    shape = list(array.shape)
    for size in batch:
        if not -len(shape) <= dim < len(shape) or shape[dim] != size:
            wanted = f"{size} at dimension {dim}, one slice for each condition of the batch"
            got = f"shape {tuple(array.shape)} beside conditions {batch}"
            raise ValueError(message(leaf.name, got, wanted, leaf.way_out))
        del shape[dim]
    for done in range(len(batch)):
        axis = dim + done if dim >= 0 else dim
        array = array if axis == done else jnp.moveaxis(array, axis, done)
    return flat_batch(array, batch)


def flat_batch(array: Any, batch: tuple[int, ...]) -> Array:
    """Return `(*batch, ...)` as `(B, ...)`; one condition has no `B`."""
    if len(batch) <= 1:
        return jnp.asarray(array)
    return jnp.reshape(array, (math.prod(batch), *array.shape[len(batch) :]))


def unflat_batch(array: Array, batch: tuple[int, ...]) -> Array:
    """Return `(B, ...)` as `(*batch, ...)`."""
    return array if len(batch) <= 1 else jnp.reshape(array, (*batch, *array.shape[1:]))
