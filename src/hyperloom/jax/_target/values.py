"""Values that are no single array, by their leaves; arrays that hang on a module itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax.tree_util import tree_flatten_with_path

from hyperloom.jax._target.arrays import is_array
from hyperloom.jax._target.variables import Variable, key_of, parts_of


class Attribute(Variable):
    """An array that a module holds without a variable around it (`nnx.data`)."""


def leaves_of(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return the leaves of a value with their names; an array has that of the value itself."""
    leaves = tree_flatten_with_path(value)[0]
    return [(".".join([name, *(str(key_of(s)) for s in path)]), leaf) for path, leaf in leaves]


def with_leaves(name: str, value: Any, given: Mapping[str, Any]) -> Any:
    """Return a value with the leaves that are given, by their names, in the place of its own."""
    named = leaves_of(name, value)
    if not any(own in given for own, _ in named):
        return value
    return jax.tree.unflatten(jax.tree.structure(value), [given.get(n, v) for n, v in named])


@dataclass(frozen=True, eq=False)
class Cell:
    """One array in the value of a variable, read and written as a variable is.

    Attributes:
        variable: The variable.
        place: Which of its leaves.
    """

    variable: Variable
    place: int

    def get_raw_value(self) -> Any:
        """Return the array."""
        return jax.tree.leaves(self.variable.get_raw_value())[self.place]

    def get_value(self) -> Any:
        """Return the array."""
        return self.get_raw_value()

    def set_value(self, value: Any) -> None:
        """Put another array in its place."""
        leaves, tree = jax.tree.flatten(self.variable.get_raw_value())
        leaves[self.place] = value
        self.variable.set_raw_value(jax.tree.unflatten(tree, leaves))


def cells_of(name: str, variable: Variable) -> Iterator[tuple[str, Any]]:
    """Yield every array of a variable with its name: the variable itself, or its cells."""
    value: Any = variable.get_raw_value()
    if is_array(value):
        yield name, variable
        return
    for place, (leaf_name, leaf) in enumerate(leaves_of(name, value)):
        if is_array(leaf):
            yield leaf_name, Cell(variable, place)


def raw_paths(module: nnx.Module) -> frozenset[tuple[Any, ...]]:
    """Return the paths of the arrays that have no variable around them."""
    flat = nnx.to_flat_state(nnx.state(module))
    return frozenset(path for path, leaf in flat if not isinstance(leaf, nnx.Variable))


def swap(
    node: Any,
    paths: Collection[tuple[Any, ...]],
    change: Callable[[Any], Any],
    above: tuple[Any, ...] = (),
) -> Any:
    """Return a tree of modules with what hangs at some paths changed: modules in place.

    Args:
        node: A module, or what hangs on one.
        paths: The paths.
        change: What stands there -> what is to stand there.
        above: The path of `node`.
    """
    if above in paths:
        return change(node)
    if not any(path[: len(above)] == above for path in paths):
        return node
    changed = {k: (v, swap(v, paths, change, (*above, k))) for k, v in parts_of(node)}
    if isinstance(node, (nnx.List, nnx.Pytree, list, dict)):
        for key, (old, new) in changed.items():
            if new is not old:
                _put(node, key, new)
        return node
    _, tree = jax.tree.flatten(node, is_leaf=lambda value: value is not node)
    return jax.tree.unflatten(tree, [new for _, new in changed.values()])


def _put(node: Any, key: Any, value: Any) -> None:
    if isinstance(node, (nnx.List, list, dict)):
        node[key] = value
    else:
        setattr(node, key, nnx.data(value))
