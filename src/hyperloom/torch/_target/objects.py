"""Dataclasses and mappings as containers: tensors in them go into a batch and come out of it."""

from __future__ import annotations

import dataclasses
import operator
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import (
    SUPPORTED_NODES,
    register_pytree_node,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_unflatten,
)

from hyperloom._core.errors import message

ARRAYS = (Tensor, np.ndarray)


class Rest:
    """What an object holds beside its parts; two are equal if all of it is."""

    def __init__(self, held: dict[str, Any]) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rest) and self.held == other.held

    def __hash__(self) -> int:
        return hash(tuple(self.held))


@dataclasses.dataclass
class Packed:
    """A dataclass or a mapping as a node of trees, if PyTorch does not know its class.

    Attributes:
        kind: Its class.
        names: Its fields, or its keys.
        values: Their values.
        rest: Attributes of a mapping.
        origin: The object itself, as long as nothing was made of its values.
    """

    kind: type
    names: tuple[Any, ...]
    values: list[Any]
    rest: Rest
    origin: Any = None

    def unpacked(self) -> Any:
        """Return the object, past its constructor."""
        if self.origin is not None:
            return self.origin
        parts = {n: unpack(value) for n, value in zip(self.names, self.values, strict=True)}
        if self.kind is MappingProxyType:
            return MappingProxyType(parts)
        kind: Any = self.kind
        made = kind.__new__(kind)
        if self.rest.held:
            vars(made).update(self.rest.held)
        if isinstance(made, UserDict):
            made.data = parts
        elif isinstance(made, dict):
            for name, value in parts.items():
                made[name] = value  # as it does itself: some keep attributes, too
        else:
            for name, value in parts.items():
                object.__setattr__(made, name, value)
        return made

    def called(self, name: str, number: int) -> str:
        """Return what errors call one of its parts."""
        key = self.names[number]
        return f"{name}[{key!r}]" if issubclass(self.kind, Mapping) else f"{name}.{key}"


register_pytree_node(
    Packed,
    lambda packed: (packed.values, (packed.kind, packed.names, packed.rest)),
    lambda values, context: Packed(context[0], context[1], list(values), context[2]),
)


def pack(tree: Any) -> Any:
    """Return a tree in which dataclasses and mappings with tensors in them are nodes.

    A tree without any is returned as it is: the target may fill its lists.
    """
    if type(tree) is Tensor:
        return tree
    leaves, structure = tree_flatten(tree, is_leaf=_is_mapping)
    packed = [_packed(leaf) for leaf in leaves]
    if all(new is old for new, old in zip(packed, leaves, strict=True)):
        return tree
    return tree_unflatten(packed, structure)


def _is_mapping(value: Any) -> bool:
    """Whether something is a mapping of another class than those that trees keep apart by."""
    return isinstance(value, (dict, UserDict, MappingProxyType)) and type(value) not in _DICTS


_DICTS = (dict, OrderedDict, defaultdict)


def _packed(leaf: Any) -> Any:
    parts: dict[Any, Any]
    rest: dict[str, Any] = {}
    if _is_mapping(leaf):
        parts = dict(leaf.data) if isinstance(leaf, UserDict) else dict(leaf)
        held = getattr(leaf, "__dict__", {})
        rest = {name: held[name] for name in held if name not in parts and held[name] is not parts}
        if isinstance(leaf, UserDict):
            rest.pop("data")
        if any(isinstance(value, ARRAYS) for value in tree_leaves(list(rest.values()))):
            return leaf  # it keeps more than its parts
    elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        names = [field.name for field in dataclasses.fields(leaf)]
        if set(getattr(leaf, "__dict__", names)) != set(names):
            return leaf
        parts = {name: getattr(leaf, name) for name in names}
    else:
        return leaf
    values = [pack(value) for value in parts.values()]
    some = any(isinstance(value, ARRAYS) for value in tree_leaves(values))
    return Packed(type(leaf), tuple(parts), values, Rest(rest), leaf) if some else leaf


def unpack(tree: Any) -> Any:
    """Return a tree with its dataclasses as they are; one without any as it is."""
    if type(tree) is Tensor or not _objects(tree):
        return tree
    return tree_map(lambda v: v.unpacked() if _is_packed(v) else v, tree, is_leaf=_is_packed)


def _is_packed(value: Any) -> bool:
    return isinstance(value, Packed)


def with_objects(run: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
    """Call a function that takes and returns dataclasses.

    Raises:
        ValueError: It changes one that it is given, or a list or dict around one.
    """
    given, named = [unpack(value) for value in args], {n: unpack(v) for n, v in kwargs.items()}
    output = run(*given, **named)
    for old, new in zip((*args, *kwargs.values()), (*given, *named.values()), strict=True):
        if old is new:
            continue
        before, after = tree_flatten(old), tree_flatten(pack(new))
        same = before[1] == after[1] and all(map(operator.is_, before[0], after[0]))
        if not same:
            got = f"a {_objects(old)[0].kind.__name__} that the target changes"
            raise ValueError(message("inputs", got, "one that it returns anew, or a tensor"))
    return pack(output)


def _objects(tree: Any) -> list[Packed]:
    return [v for v in tree_leaves(tree, is_leaf=_is_packed) if _is_packed(v)]


def opened(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]] | None:
    """Return the parts of a node of a class that is registered, and what makes one of others."""
    if isinstance(tree, (Tensor, dict, tuple, list)) or type(tree) not in SUPPORTED_NODES:
        return None
    node = SUPPORTED_NODES[type(tree)]
    parts, context = node.flatten_fn(tree)
    return list(parts), lambda others: node.unflatten_fn(others, context)


def part_name(tree: Any, name: str, number: int) -> str:
    """Return what errors call a part of a node `name`."""
    return tree.called(name, number) if isinstance(tree, Packed) else f"{name}.{number}"
