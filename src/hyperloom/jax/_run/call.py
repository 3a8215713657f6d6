"""Pairing inputs with a batch of conditions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

from hyperloom._core.errors import message
from hyperloom.jax._arrays import is_array

Dims = int | tuple[Any, ...] | None


class Call:
    """The inputs of one call, checked against the batch of conditions.

    Attributes:
        batch: Dimensions of the batch; `()` for one condition.
        arrays: All arrays among the inputs, in order.
        dims: For each the dimension that pairs with the conditions, or `None`.

    Args:
        batch: Dimensions of the batch.
        inputs: Positional inputs of the target.
        in_axes: As in `HyperNetwork.__call__`.
        kwargs: Keyword inputs of the target.

    Raises:
        ValueError: Inputs that do not pair with the conditions.
    """

    def __init__(
        self, batch: tuple[int, ...], inputs: tuple[Any, ...], in_axes: Dims, kwargs: dict[str, Any]
    ) -> None:
        self.batch = batch
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
        self.arrays = [array for _, array, _ in found]
        self.dims = [dim for *_, dim in found]
        if batch:
            _check(found, batch)
        leaves, self._tree = jax.tree.flatten((inputs, kwargs))
        self._places = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
        self._others = [None if is_array(leaf) else leaf for leaf in leaves]

    @classmethod
    def of_arrays(cls, call: Call, arrays: list[Array], batch: tuple[int, ...]) -> Call:
        """Return `call` with other arrays and another batch."""
        made = object.__new__(cls)
        made.__dict__.update(call.__dict__)
        made.arrays, made.batch = arrays, batch
        return made

    def rebuild(self, arrays: list[Array]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword inputs with `arrays` in place of the arrays."""
        leaves = list(self._others)
        for place, array in zip(self._places, arrays, strict=True):
            leaves[place] = array
        return jax.tree.unflatten(self._tree, leaves)

    def rows(self) -> int:
        """Guess how many rows each condition has, from the first paired input `(B, *n, I)`."""
        for array, dim in zip(self.arrays, self.dims, strict=True):
            if dim is not None:
                return max(1, int(np.prod(array.shape[len(self.batch) : -1])))
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


def _check(found: list[tuple[str, Any, int | None]], batch: tuple[int, ...]) -> None:
    """Raise unless every paired array has the batch's dimensions where its `dim` says."""
    for name, array, dim in found:
        shape = list(array.shape)
        for size in batch if dim is not None else ():
            assert dim is not None
            if not -len(shape) <= dim < len(shape) or shape[dim] != size:
                way_out = "For one input that all conditions share, pass in_axes=None."
                wanted = f"{size} at dimension {dim}, one slice for each condition of the batch"
                got = f"shape {tuple(array.shape)} beside conditions {batch}"
                raise ValueError(message(name, got, wanted, way_out))
            del shape[dim]
