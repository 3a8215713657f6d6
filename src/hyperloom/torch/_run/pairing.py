"""Pairing inputs with a batch of conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hyperloom._core.backend.inputs import check_entries, entries_of
from hyperloom._core.errors import message, shown
from hyperloom.torch._generate.encoded import refuse_meta
from hyperloom.torch._run.joined import OfEach
from hyperloom.torch._target.objects import ARRAYS, Packed, opened, part_name

_DIMS = "an int or None, a tuple with an entry for each positional input, or a dict"


def check_dims(dims: Any) -> None:
    """Raise `TypeError` unless `dims` is of a class that `in_dims` may be of."""
    if dims is not None and type(dims) is not int and not isinstance(dims, (tuple, list, dict)):
        raise TypeError(message("in_dims", shown(dims), _DIMS))


def refuse_meta_inputs(call: Any, device: torch.device) -> None:
    """Raise for an input on the meta device beside weights that have values.

    On CPU a product of a tensor and one without values does not fail: it is uninitialised memory.
    """
    for name, value in (*enumerate(call.inputs), *call.kwargs.items()):
        if isinstance(value, Tensor):
            refuse_meta(value, device, f"input {name}" if isinstance(name, int) else name)


def all_dims(
    inputs: tuple[Any, ...], kwargs: dict[str, Any], in_dims: Any, batch: Sequence[int] = ()
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return `in_dims` in the shape of all inputs, positional ones and keywords; see `dims_like`.

    Args:
        inputs: Positional inputs.
        kwargs: Keyword inputs.
        in_dims: As in `HyperNetwork.forward`.
        batch: Of conditions, for which the inputs will be cut: what cannot be is refused.

    Raises:
        ValueError: `in_dims` that names no input, or not all parts of one.
        TypeError: Something else than ints and `None` for a tensor.
    """
    places, named = entries_of("in_dims", inputs, kwargs, in_dims)
    both = enumerate(zip(inputs, places, strict=True))
    dims = tuple([dims_like(value, dim, f"input {i}", batch) for i, (value, dim) in both])
    return dims, {
        name: dims_like(value, named[name], name, batch) for name, value in kwargs.items()
    }


def _is_sequence(tree: Any) -> bool:
    """Whether a tree goes on in a tuple or a list; a `torch.Size` is numbers."""
    return isinstance(tree, (tuple, list)) and not isinstance(tree, (torch.Size, OfEach))


def _remade(tree: Any, parts: list[Any]) -> Any:
    """Return a tuple or a list of the class of `tree`, with other parts."""
    return tree._make(parts) if hasattr(tree, "_make") else type(tree)(parts)


def dims_like(tree: Any, dims: Any, name: str = "the inputs", batch: Sequence[int] = ()) -> Any:
    """Return `dims` in the shape of `tree`: for each tensor its dimension, else `None`.

    Args:
        tree: Tuples, lists and dicts of tensors and anything else.
        dims: One entry for the whole tree, or a tuple, list or dict that mirrors its top.
        name: What errors call the tree.
        batch: Of conditions, for which the tree will be cut: what cannot be is refused.

    Raises:
        ValueError: Entries that are not those of the tree's parts.
        TypeError: Something else than ints and `None` for a tensor.
    """
    if isinstance(tree, dict):
        if isinstance(dims, dict):
            check_entries("in_dims", name, dims, tree)
        entries = dims if isinstance(dims, dict) else dict.fromkeys(tree, dims)
        return {
            key: dims_like(v, entries[key], f"{name}[{key!r}]", batch) for key, v in tree.items()
        }
    if _is_sequence(tree):
        if batch and dims is not None and type(tree) is list and len(tree) == batch[0]:
            _refuse_values(tree, name)
        entries = dims if isinstance(dims, (tuple, list)) else [dims] * len(tree)
        check_entries("in_dims", name, range(len(entries)), range(len(tree)))
        both = enumerate(zip(tree, entries, strict=True))
        parts = [dims_like(value, dim, f"{name}[{i}]", batch) for i, (value, dim) in both]
        return _remade(tree, parts)
    if isinstance(tree, OfEach) and dims in (0, None):
        return dims
    if (node := opened(tree)) is not None:
        parts, made = node
        named = [part_name(tree, name, i) for i in range(len(parts))]
        entries = _entries(tree, dims, name, len(parts))
        both = zip(parts, entries, named, strict=True)
        return made([dims_like(part, dim, called, batch) for part, dim, called in both])
    if not isinstance(tree, ARRAYS):
        if batch and dims is not None:
            _refuse_unpaired(tree, name)
        return None
    if tree.ndim == 0:
        return None  # one number is for all of them
    if dims is not None and type(dims) is not int:
        raise TypeError(message("in_dims", shown(dims), _DIMS))
    return dims


def _entries(tree: Any, dims: Any, name: str, num: int) -> list[Any]:
    """Return the entries of the parts of an object; a mapping may have one for each key."""
    if isinstance(dims, dict) and isinstance(tree, Packed):
        check_entries("in_dims", name, dims, tree.names)
        return [dims[key] for key in tree.names]
    if dims is not None and type(dims) is not int:
        raise TypeError(message("in_dims", shown(dims), "an int or None for an object"))
    return [dims] * num


_SHARED = "If all conditions share it, pass in_dims=None, or {...: None} for this input."


def _refuse_values(values: list[Any], name: str) -> None:
    """Raise for a list with a number or a text for each condition: nobody knows whose they are.

    Raises:
        TypeError: There is nothing else in it.
    """
    if values and all(isinstance(value, (str, bytes, int, float, complex)) for value in values):
        got = f"a list of {len(values)} values, as many as conditions"
        wanted = "a tensor with a value for each condition, or a tuple that all of them share"
        raise TypeError(message(name, got, wanted, _SHARED))


def _refuse_unpaired(value: Any, name: str) -> None:
    """Raise for what holds numbers that cannot be cut: every condition would be given all of them.

    Raises:
        TypeError: An object of an unknown class with tensors in it.
    """
    if _holds_tensors(value):
        got = f"a {type(value).__name__} with tensors in it, which is of no known container class"
        wanted = "tensors, alone or in tuples, lists and dicts, that can be cut for each condition"
        way_out = f"Give its parts as a dict, a tuple or keywords. {_SHARED}"
        raise TypeError(message(name, got, wanted, way_out))


def _holds_tensors(value: Any, depth: int = 4) -> bool:
    """Whether an object has tensors among its attributes, or in containers there."""
    if isinstance(value, ARRAYS):
        return True
    if depth == 0 or isinstance(value, (*_WHOLE, type, nn.Module)) or callable(value):
        return False
    if isinstance(value, Mapping):
        parts: Iterable[Any] = value.values()
    elif isinstance(value, (tuple, list, set, frozenset)):
        parts = value
    else:
        slots = (getattr(value, n, None) for n in getattr(type(value), "__slots__", ()))
        parts = (*getattr(value, "__dict__", {}).values(), *slots)
    return any(_holds_tensors(part, depth - 1) for part in parts)


# What says one thing to all conditions.
_WHOLE = (str, bytes, int, float, complex, Enum, torch.Size, torch.Generator, torch.dtype)


def pair_check(
    inputs: tuple[Any, ...], dims: Any, kwargs: dict[str, Any], kwargs_dims: Any, batch: torch.Size
) -> None:
    """Raise unless every paired tensor has the batch's dimensions where `dims` says.

    Raises:
        ValueError: Nothing to pair, or a tensor whose size is not the batch's.
    """
    named = {f"input {i}": v for i, v in enumerate(inputs)} | kwargs
    for name, value in named.items():
        for leaf in tree_leaves(value):
            if isinstance(leaf, OfEach) and len(leaf) != batch[0]:
                got = f"{len(leaf)} objects beside conditions {tuple(batch)}"
                raise ValueError(message(name, got, "one for each condition of the batch"))
    leaves = [*_leaves(inputs, dims, "input "), *_leaves(kwargs, kwargs_dims, "")]
    for name, tensor, dim in leaves:
        shape = list(tensor.shape)
        for size in batch:
            if not -len(shape) <= dim < len(shape) or shape[dim] != size:
                way_out = "For one input that all conditions share, pass in_dims=None."
                wanted = f"{size} at dimension {dim}, one slice for each condition of the batch"
                got = f"shape {tuple(tensor.shape)} beside conditions {tuple(batch)}"
                raise ValueError(message(name, got, wanted, way_out))
            del shape[dim]


def _leaves(tree: Any, dims: Any, name: str) -> Iterator[tuple[str, Any, int]]:
    """Yield name, tensor (or NumPy array) and dimension of all that are paired."""
    if isinstance(tree, ARRAYS):
        if dims is not None:
            yield name, tree, dims
    elif _is_sequence(tree):
        for i, (part, dim) in enumerate(zip(tree, dims, strict=True)):
            yield from _leaves(part, dim, f"{name}{i}" if name.endswith(" ") else f"{name}[{i}]")
    elif isinstance(tree, dict):
        for key, part in tree.items():
            yield from _leaves(part, dims[key], f"{name}[{key!r}]" if name else str(key))
    elif (node := opened(tree)) is not None:
        other = opened(dims)
        assert other is not None
        for i, (part, dim) in enumerate(zip(node[0], other[0], strict=True)):
            yield from _leaves(part, dim, part_name(tree, name, i))


def has_mutable(tree: Any) -> bool:
    """Whether there are lists or dicts in a tree of tuples."""
    if isinstance(tree, tuple):
        return any(map(has_mutable, tree))
    return isinstance(tree, (list, dict)) or opened(tree) is not None


def first_paired(tree: Any, dims: Any) -> Any:
    """Return the first tensor that is paired with the conditions, if there is one."""
    for _, tensor, _ in _leaves(tree, dims, ""):
        return tensor
    return None


def narrow_like(tree: Any, dims: Any, start: int, stop: int) -> Any:
    """Return `tree` with every paired tensor cut to `start .. stop` along its dimension."""
    if isinstance(tree, ARRAYS):
        return tree if dims is None else _part(tree, dims, slice(start, stop))
    if isinstance(tree, dict):
        return {key: narrow_like(value, dims[key], start, stop) for key, value in tree.items()}
    if _is_sequence(tree):
        parts = [narrow_like(t, d, start, stop) for t, d in zip(tree, dims, strict=True)]
        return _remade(tree, parts)
    if isinstance(tree, OfEach) and dims is not None:
        return OfEach(tree[start:stop])
    return _opened_like(tree, dims, lambda part, dim: narrow_like(part, dim, start, stop))


def _part(array: Any, dim: int, index: int | slice) -> Any:
    """Return a view of a part of a tensor or a NumPy array along a dimension."""
    if isinstance(index, int):
        return (
            array.select(dim, index)
            if isinstance(array, Tensor)
            else np.moveaxis(array, dim, 0)[index]
        )
    if isinstance(array, Tensor):
        return array.narrow(dim, index.start, index.stop - index.start)
    return np.moveaxis(np.moveaxis(array, dim, 0)[index], 0, dim)


def _opened_like(tree: Any, dims: Any, function: Callable[[Any, Any], Any]) -> Any:
    """Return a node with what a function makes of its parts and their dimensions."""
    node, other = opened(tree), opened(dims)
    if node is None or other is None:
        return tree
    return node[1]([function(part, dim) for part, dim in zip(node[0], other[0], strict=True)])


def _is_paired(dims: Any) -> bool:
    """Whether anything in a tree of dimensions is paired."""
    return any(dim is not None for dim in tree_leaves(dims))


def select_like(tree: Any, dims: Any, index: int) -> Any:
    """Return `tree` with every paired tensor replaced by its slice `index` along its dimension."""
    if isinstance(tree, ARRAYS):
        return tree if dims is None else _part(tree, dims, index)
    if not _is_paired(dims):
        return tree  # itself: the target may add to a list that all conditions share
    if isinstance(tree, dict):
        return {key: select_like(value, dims[key], index) for key, value in tree.items()}
    if _is_sequence(tree):
        parts = [select_like(t, d, index) for t, d in zip(tree, dims, strict=True)]
        return _remade(tree, parts)
    if isinstance(tree, OfEach):
        return tree[index]
    return _opened_like(tree, dims, lambda part, dim: select_like(part, dim, index))
