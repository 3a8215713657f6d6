"""Dataclasses as containers: tensors in their fields go into a batch and come out of it."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

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


@dataclasses.dataclass
class Packed:
    """A dataclass as a node of trees: its class is not PyTorch's, and not ours to register.

    Attributes:
        kind: Its class.
        names: Its fields.
        values: Their values.
        origin: The object itself, as long as nothing was made of its values.
    """

    kind: type
    names: tuple[str, ...]
    values: list[Any]
    origin: Any = None

    def unpacked(self) -> Any:
        """Return the dataclass, past its constructor."""
        if self.origin is not None:
            return self.origin
        made = object.__new__(self.kind)
        for name, value in zip(self.names, self.values, strict=True):
            object.__setattr__(made, name, unpack(value))
        return made


register_pytree_node(
    Packed,
    lambda packed: (packed.values, (packed.kind, packed.names)),
    lambda values, context: Packed(context[0], context[1], list(values)),
)


def pack(tree: Any) -> Any:
    """Return a tree in which dataclasses with tensors in their fields are nodes.

    A tree without any is returned as it is: the target may fill its lists.
    """
    if type(tree) is Tensor:
        return tree
    leaves, structure = tree_flatten(tree)
    packed = [_packed(leaf) for leaf in leaves]
    if all(new is old for new, old in zip(packed, leaves, strict=True)):
        return tree
    return tree_unflatten(packed, structure)


def _packed(leaf: Any) -> Any:
    if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
        return leaf
    names = tuple(field.name for field in dataclasses.fields(leaf))
    if set(getattr(leaf, "__dict__", names)) != set(names):
        return leaf  # it keeps more than its fields
    values = [pack(getattr(leaf, name)) for name in names]
    some = any(isinstance(value, Tensor) for value in tree_leaves(values))
    return Packed(type(leaf), names, values, leaf) if some else leaf


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
