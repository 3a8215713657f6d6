"""Kinds of variables, and how those of a module are walked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from flax import nnx
from jax.core import Tracer
from jax.tree_util import tree_flatten_with_path

Variable = nnx.Variable[Any]
Param = nnx.Param[Any]


class Fixed(Variable):
    """Numbers that are not learned: scales, kept tensors, frozen bases, a Linen target's state."""


class Hole(Variable):
    """The place of a parameter in the template; its value is given at every call."""


def arrays_of(held: nnx.Dict[Any]) -> dict[str, Any]:
    """Return the values of a dict of variables; marks that `nnx.tabulate` leaves are none."""
    variables = {name: held[name] for name in held}  # it runs `items()` by jit
    return {name: v[...] for name, v in variables.items() if isinstance(v, nnx.Variable)}


def walk(node: Any) -> Iterator[tuple[str, Variable]]:
    """Yield dotted path and variable of everything below `node`, shared ones at every path.

    Attributes by name, numbers in them by value (`dense2` before `dense10`), items by index.
    """
    yield from _walk(node, "", ())


def _walk(node: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, Variable]]:
    if isinstance(node, nnx.Variable):
        yield path, node
        return
    if id(node) in above:  # a module that holds its parent
        return
    above = (*above, id(node))
    for key, child in parts_of(node):
        yield from _walk(child, f"{path}.{key}" if path else str(key), above)


def parts_of(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what hangs on a module, a container or another node of a pytree, by key."""
    if isinstance(node, (nnx.List, list, tuple)):
        yield from enumerate(node)
    elif isinstance(node, dict):
        yield from sorted(node.items(), key=lambda item: natural(str(item[0])))
    elif isinstance(node, nnx.Pytree):
        items = (i for i in vars(node).items() if not i[0].startswith("_pytree__"))
        yield from sorted(items, key=lambda item: natural(item[0]))
    else:
        children, _ = tree_flatten_with_path(node, is_leaf=lambda value: value is not node)
        yield from ((key_of(path[0]), value) for path, value in children if path)


def key_of(step: Any) -> Any:
    """Return a step of a path in a pytree as a user writes it."""
    for name in ("key", "name", "idx"):
        if hasattr(step, name):
            return getattr(step, name)
    return step


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names with the numbers in them by value."""
    parts = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdigit() else (-1, p) for p in parts]


def is_random(variable: Variable) -> bool:
    """Whether a variable is the state of a random stream, not numbers of a network."""
    return isinstance(variable, nnx.RngState)


def become(variable: Variable, kind: type[Variable], value: Any) -> None:
    """Make a variable one of another kind with another value, at all of its paths at once."""
    object.__setattr__(variable, "__class__", kind)
    variable.set_raw_value(value)


def is_traced(value: Any) -> bool:
    """Whether a value stands for one that is not known yet, so that it cannot be looked at."""
    return isinstance(value, Tracer)
