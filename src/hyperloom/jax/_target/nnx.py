"""An NNX module as target."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.target.spec import TargetSpec
from hyperloom.jax._target.adaptor import (
    Adaptor,
    Box,
    Method,
    Notes,
    Pure,
    Read,
    Tap,
    dotted,
    method_of,
)
from hyperloom.jax._target.spec import tensor_spec
from hyperloom.jax._target.streams import has_stream, own_streams
from hyperloom.jax._target.values import (
    Attribute,
    cells_of,
    leaves_of,
    raw_paths,
    swap,
    with_leaves,
)
from hyperloom.jax._target.variables import Hole, Variable, become, is_random, walk


def read_nnx(target: nnx.Module) -> Read:
    """Read an NNX module."""
    layers = {dotted(path): layer for path, layer in nnx.iter_modules(target)}
    groups = parameters_of(target)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for names, variable in groups:
        for name in names:
            for full, value in leaves_of(name, variable.get_raw_value()):
                layer, _, leaf = full.rpartition(".")
                shapes.setdefault(layer, {})[leaf] = tuple(np.shape(value))
    tensors, values = [], {}
    for names, variable in groups:
        every = [leaves_of(name, variable.get_raw_value()) for name in names]
        for leaves in zip(*every, strict=True):
            value = leaves[0][1]
            value = value if hasattr(value, "dtype") else jnp.asarray(value)  # one number
            path = leaves[0][0].rpartition(".")[0]
            tensors.append(
                tensor_spec([n for n, _ in leaves], layers.get(path), shapes[path], value)
            )
            values[leaves[0][0]] = value
    spec = TargetSpec(type(target).__name__, tuple(tensors))
    return Read(spec, values, NNXTarget(target, spec))


def parameters_of(module: nnx.Module) -> list[tuple[list[str], Variable]]:
    """Return the parameters of a module with all names of each, in the order of its paths."""
    groups: dict[int, tuple[list[str], Variable]] = {}
    for name, variable in walk(module):
        if isinstance(variable, nnx.Param):
            groups.setdefault(id(variable), ([], variable))[0].append(name)
    return list(groups.values())


@dataclass(frozen=True)
class _Place:
    """A parameter of the template, whose value comes with every call.

    Attributes:
        kind: Its class.
        tree: The structure of its value.
        tensors: The names of its leaves.
    """

    kind: type[Variable]
    tree: Any
    tensors: tuple[str, ...]

    def value(self, tensors: Mapping[str, Any]) -> Any:
        return jax.tree.unflatten(self.tree, [tensors[name] for name in self.tensors])


class NNXTarget(Adaptor):
    """An NNX target. Modes are those of its template, which `hnet.eval()` reaches.

    Args:
        target: The module; it is copied, and not changed.
        spec: Its parameters.
    """

    def __init__(self, target: nnx.Module, spec: TargetSpec) -> None:
        self.spec = Box(spec)
        template = nnx.clone(target)
        nnx.pop(template, nnx.Intermediate)  # what an earlier call has sown
        raw = raw_paths(template)
        template = swap(template, raw, Attribute)
        places: dict[str, _Place] = {}
        for names, variable in parameters_of(template):
            value: Any = variable.get_raw_value()
            leaf_names = tuple(name for name, _ in leaves_of(names[0], value))
            place = _Place(type(variable), jax.tree.structure(value), leaf_names)
            places.update(dict.fromkeys(names, place))
            become(variable, Hole, None)
        self.template = template
        self.places, self.raw = Box(places), Box(raw)

    def state(self) -> dict[str, Any]:
        named = [leaves_of(name, v.get_raw_value()) for name, v in self._state()]
        return {name: leaf for leaves in named for name, leaf in leaves}

    def state_variables(self) -> Iterator[tuple[str, Any]]:
        for name, variable in self._state():
            yield from cells_of(name, variable)

    def _state(self) -> Iterator[tuple[str, Variable]]:
        for path, node in nnx.iter_graph(self.template):
            kept = isinstance(node, nnx.Variable) and not isinstance(node, (Hole, nnx.RngState))
            if kept and _CAPTURES not in path:
                yield dotted(path), node

    def keep(self, captured: Mapping[str, Any]) -> None:
        for path, node in nnx.iter_graph(self.template):
            if isinstance(node, nnx.Variable) and dotted(path) in captured:
                node.set_raw_value(captured[dotted(path)])

    def keys(self, rngs: nnx.Rngs | None, method: Method = None) -> dict[str, Array]:
        drawn: dict[str, Array] = {}
        for name, stream in self._streams():
            if rngs is not None and has_stream(rngs, stream.tag):
                drawn[name] = rngs[stream.tag]()
            else:
                drawn[name] = jax.random.fold_in(stream.key[...], stream.count[...])
        if rngs is not None and _takes_rngs(method_of(self.template, method)):
            drawn.update((f"{_GIVEN}{tag}", stream()) for tag, stream in rngs.items())
        return drawn

    def _streams(self) -> Iterator[tuple[str, nnx.RngStream]]:
        for path, node in nnx.iter_graph(self.template):
            if isinstance(node, nnx.RngStream):
                yield dotted(path), node

    def advance(self, used: set[str], rngs: nnx.Rngs | None) -> None:
        for name, stream in self._streams():
            if name in used and not has_stream(rngs, stream.tag):
                with own_streams():
                    stream.count[...] += 1

    def pure(self, notes: Notes, method: Method = None) -> Pure:
        graphdef, state = nnx.split(self.template)
        paths = [(path, dotted(path), leaf) for path, leaf in nnx.to_flat_state(state)]
        takes_rngs = _takes_rngs(method_of(self.template, method))
        places, raw = self.places.held, self.raw.held
        known = frozenset(self.state())

        def pure(tensors: Any, state: Any, keys: Any, args: Any, kwargs: Any) -> Any:
            given = []
            for path, name, leaf in paths:
                place = places.get(name) if isinstance(leaf, Hole) else None
                value = _given(name, leaf, state, keys) if place is None else place.value(tensors)
                given.append((path, value))
            # In variables, as a dict by itself would be taken for a part of the tree.
            held = [(p, _held(leaf, v)) for (p, v), (_, _, leaf) in zip(given, paths, strict=True)]
            module = _filled(nnx.merge(graphdef, nnx.from_flat_state(held)), places, tensors)
            swap(module, raw, lambda variable: variable.get_raw_value())
            if notes.tap is not None:
                _tap_layers(module, notes.tap)
            if takes_rngs and (given_rngs := _own_rngs(keys)):
                kwargs = {"rngs": nnx.Rngs(**given_rngs), **kwargs}
            out = method_of(module, method)(*args, **kwargs)
            return out, _left(module, dict(given), known, notes)

        return pure

    def outline(self) -> Any:
        return self.template

    def build(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        arrays = {name: jnp.array(value) for name, value in tensors.items()}
        module = _filled(nnx.clone(self.template), self.places.held, arrays)
        for name, variable in walk(module):
            if not isinstance(variable, (nnx.Param, Hole, nnx.RngState)):
                variable.set_raw_value(with_leaves(name, variable.get_raw_value(), state))
        return swap(module, self.raw.held, lambda variable: variable.get_raw_value())


_CAPTURES = "__captures__"  # where `nnx.capture` has modules put what they sow


def _filled(module: Any, places: Mapping[str, _Place], tensors: Mapping[str, Any]) -> Any:
    """Put parameters into their places. A template may have holes of its own: a hypernetwork."""
    for name, variable in walk(module):
        if isinstance(variable, Hole) and name in places:
            become(variable, places[name].kind, places[name].value(tensors))
    return module


def _tap_layers(module: nnx.Module, tap: Tap) -> None:
    """Show `tap` what each part of a module returns; the module is a copy, for one call."""
    for path, part in nnx.iter_modules(module):
        kind = type(part)
        if callable(part):
            part.__class__ = _tapped(kind, dotted(path), tap)


def _tapped(kind: type[Any], path: str, tap: Tap) -> type[Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return tap(path, kind.__name__, kind.__call__(self, *args, **kwargs))

    make: Any = type(kind)
    return make(kind.__name__, (kind,), {"__call__": call})


_GIVEN = "given:"


def _takes_rngs(function: Any) -> bool:
    """Whether a method takes random streams as an argument."""
    call = type(function).__call__ if isinstance(function, nnx.Module) else function
    return "rngs" in inspect.signature(call).parameters


def _own_rngs(keys: Mapping[str, Array]) -> dict[str, Array]:
    return {k.removeprefix(_GIVEN): v for k, v in keys.items() if k.startswith(_GIVEN)}


def _held(leaf: Any, value: Any) -> Any:
    return leaf.replace(value) if isinstance(leaf, nnx.Variable) else value


def _given(name: str, leaf: Any, state: Any, keys: Any) -> Any:
    """Return the value that a variable of the template other than a parameter gets in a call."""
    stream, _, last = name.rpartition(".")
    if isinstance(leaf, nnx.RngKey) and stream in keys:
        return keys[stream]
    if isinstance(leaf, nnx.RngCount) and last == "count" and stream in keys:
        return jnp.zeros((), jnp.uint32)
    value = leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else leaf
    return with_leaves(name, value, state)


def _left(
    module: nnx.Module, before: Mapping[Any, Any], known: Collection[str], notes: Notes
) -> dict[str, Any]:
    """Return the state after a call; note what has changed.

    Args:
        module: The module after the call.
        before: What it was given, by path.
        known: The names of the state before.
        notes: Where to note it.
    """
    after: dict[str, Any] = {}
    for path, leaf in nnx.to_flat_state(nnx.state(module)):
        name, is_variable = dotted(path), isinstance(leaf, nnx.Variable)
        value: Any = leaf.get_raw_value() if is_variable else leaf
        if isinstance(leaf, (nnx.Param, Hole)):
            continue
        if is_variable and is_random(leaf):
            if isinstance(leaf, nnx.RngCount) and value is not before.get(path):
                notes.used.add(name.rpartition(".")[0])
            continue
        if _CAPTURES in path:
            notes.captured.add(name)
            after[name] = value
            continue
        if isinstance(leaf, nnx.Intermediate):
            notes.anew.add(name)
            after[name] = value
            continue
        old = dict(leaves_of(name, before.get(path)))
        for leaf_name, new in leaves_of(name, value):
            changed = new is not old.get(leaf_name)
            if changed:
                notes.written.add(leaf_name)
            if leaf_name in known and (changed or is_variable):  # a table is not copied B times
                after[leaf_name] = new
    return after
