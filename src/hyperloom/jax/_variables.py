"""Kinds of variables, and how those of a module are walked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx


class Fixed(nnx.Variable):
    """Numbers that are not learned: scales, kept tensors, frozen bases, a Linen target's state."""


class Hole(nnx.Variable):
    """The place of a parameter in the template; its value is given at every call."""


def walk(node: Any) -> Iterator[tuple[str, nnx.Variable]]:
    """Yield dotted path and variable of everything below `node`, shared ones at every path.

    In the order in which NNX splits a module: attributes by name, items by index.
    """
    yield from _walk(node, "", ())


def _walk(node: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, nnx.Variable]]:
    if isinstance(node, nnx.Variable):
        yield path, node
        return
    if id(node) in above:  # a module that holds its parent
        return
    above = (*above, id(node))
    for key, child in _children(node):
        yield from _walk(child, f"{path}.{key}" if path else str(key), above)


def _children(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, (nnx.List, list, tuple)):
        yield from enumerate(node)
    elif isinstance(node, dict):
        yield from sorted(node.items(), key=lambda item: str(item[0]))
    elif isinstance(node, nnx.Pytree):
        items = (i for i in vars(node).items() if not i[0].startswith("_pytree__"))
        yield from sorted(items)


def is_random(variable: nnx.Variable) -> bool:
    """Whether a variable is the state of a random stream, not numbers of a network."""
    return isinstance(variable, nnx.RngState)


def become(variable: nnx.Variable, kind: type[nnx.Variable], value: Any) -> None:
    """Make a variable one of another kind with another value, at all of its paths at once."""
    object.__setattr__(variable, "__class__", kind)
    variable.set_raw_value(value)


def is_traced(value: Any) -> bool:
    """Whether a value stands for one that is not known yet, so that it cannot be looked at."""
    return isinstance(value, jax.core.Tracer)
