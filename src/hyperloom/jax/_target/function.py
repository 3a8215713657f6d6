"""A pure function of a tree of parameters as target: Haiku's, Equinox's, or written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.tree_util import Partial, keystr, tree_flatten_with_path

from hyperloom._core.errors import call_it, message, shown
from hyperloom._core.target.spec import TargetSpec
from hyperloom.jax._target.adaptor import Adaptor, Box, Method, Notes, Pure, Read, method_of
from hyperloom.jax._target.arrays import is_array
from hyperloom.jax._target.spec import tensor_spec
from hyperloom.jax._target.variables import Fixed, Hole, Variable


class Function:
    """A pure function of a tree of parameters as target.

    Every floating array of the tree is a parameter; its name is its path, `layers.0.weight`. Its
    role is told from the class that holds it, or from names and shape: a tensor of two or more
    axes is a weight `(*kernel, in, out)`, or `(out, in, *kernel)` in an Equinox module; another is
    a bias, or a norm's scale or shift where its name says so. Arrays of ints and bools are the
    target's state; what is no array stays as it is.

    A tree that can be called, as an Equinox module or `jax.tree_util.Partial(apply, params)`, may
    be given as target itself: it is `Function(call, tree)` with `call = lambda tree, *x: tree(*x)`.

    Args:
        apply: `apply(params, *inputs, **kwargs)`.
        params: The tree: nested dicts, lists, tuples, Equinox modules, any pytree.

    Raises:
        TypeError: `apply` is no function.

    Example:
        >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
        >>> target = hl.Function(lambda p, x: x @ p["w"] + p["b"], params)
        >>> hnet = hl.HyperNetwork(target, condition=hl.Embedding(5, 8), rngs=nnx.Rngs(0))
    """

    def __init__(self, apply: Callable[..., Any], params: Any) -> None:
        if not callable(apply) or isinstance(apply, type):
            wanted = "a function apply(params, *inputs)"
            raise TypeError(message("Function(apply)", apply, wanted, call_it(apply)))
        if not any(map(_learned, jax.tree.leaves(params))):
            wanted = "a tree with at least one floating array"
            raise ValueError(message("Function(params)", shown(params), wanted))
        self.apply = apply
        self.params = params

    def __repr__(self) -> str:
        return f"Function({_name(self)})"


def is_callable_tree(target: Any) -> bool:
    """Whether something can be called and is a tree of arrays, as an Equinox module is."""
    return callable(target) and not jax.tree_util.all_leaves([target])


def call(tree: Any, *inputs: Any, **kwargs: Any) -> Any:
    """Call a tree that can be called."""
    return tree(*inputs, **kwargs)


def read_function(target: Function) -> Read:
    """Read a function with its tree of parameters."""
    leaves, tree = tree_flatten_with_path(target.params)
    names = [keystr(path, simple=True, separator=".") or "params" for path, _ in leaves]
    places = {n: i for i, (n, (_, v)) in enumerate(zip(names, leaves, strict=True)) if _learned(v)}
    values = {name: leaves[i][1] for name, i in places.items()}
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, value in values.items():
        layer, _, leaf = name.rpartition(".")
        shapes.setdefault(layer, {})[leaf] = tuple(value.shape)
    tensors = [
        tensor_spec([n], _owner(target.params, leaves[i][0]), shapes[n.rpartition(".")[0]], v)
        for (n, i), v in zip(places.items(), values.values(), strict=True)
    ]
    if len(places) < sum(_learned(value) for _, value in leaves):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise ValueError(message("target", f"the names {twice} twice", "each name once"))
    spec = TargetSpec(_name(target), tuple(tensors))
    others = {n: v for n, (_, v) in zip(names, leaves, strict=True) if n not in places}
    return Read(spec, values, FunctionTarget(target.apply, tree, list(names), others))


def _learned(value: Any) -> bool:
    arrays = is_array(value) or isinstance(value, jax.ShapeDtypeStruct)
    return arrays and jnp.issubdtype(value.dtype, jnp.inexact)


def _owner(tree: Any, path: tuple[Any, ...]) -> Any:
    """Return the object that holds the leaf at `path`, or `None` where that cannot be told."""
    for key in path[:-1]:
        if isinstance(key, jax.tree_util.GetAttrKey):
            tree = getattr(tree, key.name, None)
        elif isinstance(key, jax.tree_util.DictKey):
            tree = tree[key.key]
        elif isinstance(key, jax.tree_util.SequenceKey):
            tree = tree[key.idx]
        else:
            return None
    return tree


def _name(target: Function) -> str:
    kind = type(target.params)
    if kind.__module__ != "builtins" and not is_array(target.params):
        return kind.__name__
    name = getattr(target.apply, "__name__", "<unnamed>")
    return "Function" if name.startswith("<") else name


class FunctionTarget(Adaptor):
    """A pure function. It has no mode and no random streams: keys are inputs, as it takes them.

    Args:
        apply: The function.
        tree: Structure of its parameters.
        names: The name of each leaf.
        others: The leaves that are no parameters, by name.
    """

    def __init__(
        self, apply: Callable[..., Any], tree: Any, names: list[str], others: Mapping[str, Any]
    ) -> None:
        self.function = Box(apply)
        self.structure = Box((tree, tuple(names)))
        arrays = {name: value for name, value in others.items() if is_array(value)}
        self.constants = Box({n: value for n, value in others.items() if n not in arrays})
        self.buffers = nnx.Dict({name: Fixed(value) for name, value in arrays.items()})

    def state_variables(self) -> Iterator[tuple[str, Variable]]:
        for name, variable in self.buffers.items():
            if not jnp.issubdtype(variable.dtype, jax.dtypes.prng_key):
                yield name, variable

    def keys(self, rngs: nnx.Rngs | None, method: Method = None) -> dict[str, Array]:
        return {}

    def pure(self, notes: Notes, method: Method = None) -> Pure:
        apply, filled = self.function.held, self._filled

        def pure(tensors: Any, state: Any, keys: Any, args: Any, kwargs: Any) -> Any:
            tree = filled(tensors, state)
            called = partial(apply, tree) if method is None else method_of(tree, method)
            return called(*args, **kwargs), dict(state)

        return pure

    def _filled(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        """Return the tree with given tensors and state in it."""
        tree, names = self.structure.held
        held = {name: variable[...] for name, variable in self.buffers.items()}
        values = {**self.constants.held, **held, **state, **tensors}
        return jax.tree.unflatten(tree, [values[name] for name in names])

    def outline(self) -> Any:
        _, names = self.structure.held
        known = {*self.constants.held, *self.buffers}
        return self._filled({name: Hole(None) for name in names if name not in known}, {})

    def build(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        apply, arguments = self.function.held, self._filled(tensors, state)
        return arguments if apply is call else Partial(apply, arguments)
