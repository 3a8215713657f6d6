"""An NNX module as target."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
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
from hyperloom.jax._target.variables import Hole, Variable, become, is_random, walk


def read_nnx(target: nnx.Module) -> Read:
    """Read an NNX module."""
    names: dict[int, list[str]] = {}
    found: dict[int, Variable] = {}
    for name, variable in walk(target):
        if isinstance(variable, nnx.Param):
            names.setdefault(id(variable), []).append(name)
            found[id(variable)] = variable
    layers = {dotted(path): layer for path, layer in nnx.iter_modules(target)}
    beside: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, own in names.items():
        for name in own:
            layer, _, leaf = name.rpartition(".")
            beside.setdefault(layer, {})[leaf] = tuple(found[key].shape)
    tensors, values = [], {}
    for key, own in names.items():
        path = own[0].rpartition(".")[0]
        value: Any = found[key].get_raw_value()
        tensors.append(tensor_spec(own, layers.get(path), beside[path], value))
        values[own[0]] = value
    spec = TargetSpec(type(target).__name__, tuple(tensors))
    return Read(spec, values, NNXTarget(target, spec))


class NNXTarget(Adaptor):
    """An NNX target. Modes are those of its template, which `hnet.eval()` reaches.

    Args:
        target: The module; it is copied, and not changed.
        spec: Its parameters.
    """

    def __init__(self, target: nnx.Module, spec: TargetSpec) -> None:
        self.spec = Box(spec)
        template = nnx.clone(target)
        kinds: dict[str, type[Variable]] = {}
        for name, variable in walk(template):
            if isinstance(variable, nnx.Param):  # once, at the first path of a shared one
                kinds[name] = type(variable)
                become(variable, Hole, None)
        self.template = template
        self.kinds = Box(kinds)

    def state_variables(self) -> Iterator[tuple[str, Variable]]:
        for path, node in nnx.iter_graph(self.template):
            if isinstance(node, nnx.Variable) and not isinstance(node, (Hole, nnx.RngState)):
                yield dotted(path), node

    def keys(self, rngs: nnx.Rngs | None, method: Method = None) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for name, stream in self._streams():
            if rngs is not None and has_stream(rngs, stream.tag):
                found[name] = rngs[stream.tag]()
            else:
                found[name] = jax.random.fold_in(stream.key[...], stream.count[...])
        if rngs is not None and _takes_rngs(method_of(self.template, method)):
            found.update((f"{_GIVEN}{tag}", stream()) for tag, stream in rngs.items())
        return found

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
        kinds, spec = self.kinds.held, self.spec.held
        names = _names(spec)

        def pure(tensors: Any, state: Any, keys: Any, args: Any, kwargs: Any) -> Any:
            given, before = [], {}
            for path, name, leaf in paths:
                own = spec[name].name if name in names else None
                value = _given(name, leaf, state, keys) if own is None else tensors[own]
                given.append((path, value))
                before[name] = value
            module = nnx.merge(graphdef, nnx.from_flat_state(given))
            for name, variable in walk(module):
                if isinstance(variable, Hole) and name in names:
                    become(variable, kinds[spec[name].name], tensors[spec[name].name])
            if notes.tap is not None:
                _tap_layers(module, notes.tap)
            if takes_rngs and (own := _own_rngs(keys)):
                kwargs = {"rngs": nnx.Rngs(**own), **kwargs}
            out = method_of(module, method)(*args, **kwargs)
            return out, _left(module, before, notes)

        return pure

    def build(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        module, spec = nnx.clone(self.template), self.spec.held
        names = _names(spec)
        for name, variable in walk(module):
            if isinstance(variable, Hole) and name in names:
                own = spec[name].name
                become(variable, self.kinds.held[own], jnp.array(tensors[own]))
            elif name in state:
                variable[...] = state[name]
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


def _names(spec: TargetSpec) -> frozenset[str]:
    """Return all paths of parameters. A template may have holes of its own: a hypernetwork."""
    return frozenset(name for tensor in spec for name in tensor.names)


def _given(name: str, leaf: Any, state: Any, keys: Any) -> Any:
    """Return the value that a variable of the template other than a parameter gets in a call."""
    stream, _, last = name.rpartition(".")
    if isinstance(leaf, nnx.RngKey) and stream in keys:
        return keys[stream]
    if isinstance(leaf, nnx.RngCount) and last == "count" and stream in keys:
        return jnp.zeros((), jnp.uint32)
    if name in state:
        return state[name]
    return leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else leaf


def _left(module: nnx.Module, before: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """Return the state after a call; note what has changed."""
    after: dict[str, Any] = {}
    for name, variable in walk(module):
        value: Any = variable.get_raw_value()
        changed = value is not before.get(name)
        if isinstance(variable, (nnx.Param, Hole)):
            continue
        if is_random(variable):
            if changed and isinstance(variable, nnx.RngCount):
                notes.used.add(name.rpartition(".")[0])
            continue
        if changed:
            notes.written.add(name)
        after[name] = value
    return after
