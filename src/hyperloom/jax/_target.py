"""Targets: an NNX or a Linen module, as a pure function of its tensors.

An adaptor holds the target without the values of its parameters. Its state (running statistics,
caches) and its random streams are its own, or given at each call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from hyperloom._errors import message
from hyperloom._spec import TargetSpec
from hyperloom.jax._spec import tensor_spec
from hyperloom.jax._variables import Fixed, Hole, Variable, become, is_random, natural, walk

Pure = Callable[..., tuple[Any, dict[str, Any]]]


class Linen:
    """A Linen module as target.

    Args:
        module: The module, unmodified.
        *inputs: Example inputs, from which it makes its parameters.
        rng: Key or int for `module.init`, or a dict of them; default 0.
        variables: Values to start from, `{"params": ..., "batch_stats": ...}`, e.g. of a trained
            network; default what `module.init` gives.
        **kwargs: Keyword arguments of the example call.

    Raises:
        TypeError: Not a Linen module.
    """

    def __init__(
        self, module: nn.Module, *inputs: Any, rng: Any = 0, variables: Any = None, **kwargs: Any
    ) -> None:
        if not isinstance(module, nn.Module):
            way_out = "An NNX module is given as target itself."
            got = module if isinstance(module, type) else f"a {type(module).__name__}"
            raise TypeError(message("Linen(module)", got, "a flax.linen.Module", way_out))
        self.module = module
        self.layers: dict[tuple[str, ...], nn.Module] = {}
        keys = jax.tree.map(lambda k: jax.random.key(k) if isinstance(k, int) else k, rng)

        def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            self.layers.setdefault(context.module.path, context.module.clone(parent=None))
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            made = module.init(keys, *inputs, **kwargs)
        self.variables: Any = nn.unbox(made if variables is None else variables)

    def __repr__(self) -> str:
        return f"Linen({type(self.module).__name__})"


@dataclass(frozen=True, eq=False)
class Box:
    """Holds an object that NNX is to carry along and not look into."""

    held: Any


@dataclass(frozen=True)
class Read:
    """A target, read.

    Attributes:
        spec: Names, shapes, roles of its parameters.
        values: Their values by name.
        adaptor: The target without them.
    """

    spec: TargetSpec
    values: Mapping[str, Any]
    adaptor: Adaptor


def read_target(target: Any) -> Read:
    """Read a target.

    Raises:
        TypeError: Neither an NNX module nor `Linen(module, *inputs)`.
        ValueError: It has no parameters.
    """
    if isinstance(target, Read):
        return target
    if isinstance(target, Linen):
        return _read_linen(target)
    if isinstance(target, nnx.Module):
        return _read_nnx(target)
    got = target if isinstance(target, type) else f"a {type(target).__name__}"
    way_out = "Call the class to make one." if isinstance(target, type) else ""
    if isinstance(target, nn.Module):
        way_out = "Wrap it, with example inputs: hl.Linen(module, x)."
    raise TypeError(message("target", got, "an nnx.Module, or a Linen(module, *inputs)", way_out))


def target_spec(target: Any) -> TargetSpec:
    """Return names, shapes, roles, fans, ties and initial statistics of a target's parameters.

    Parameters that are one variable at several paths are one tensor with several names. Initial
    mean and standard deviation are measured on the values that are there; where there are none
    (`nnx.eval_shape`), they follow the usual initialisation for the role.

    Args:
        target: An `nnx.Module`, or `Linen(module, *inputs)`.

    Returns:
        The spec; tensors in the order in which Flax splits the module.

    Raises:
        TypeError: `target` is neither of the two.
        ValueError: It has no parameters.
    """
    return read_target(target).spec


class Adaptor(nnx.Module):
    """Base class: a target that is run with given tensors."""

    def state(self) -> dict[str, Any]:
        """Return the target's own state: all that is neither parameter nor random stream."""
        return {name: variable[...] for name, variable in self.state_variables()}

    def state_variables(self) -> Iterator[tuple[str, Variable]]:
        """Yield the variables of the state by name."""
        raise TypeError(f"{type(self).__name__} does not define state_variables()")

    def keys(self, rngs: nnx.Rngs | None) -> dict[str, Array]:
        """Return a fresh key for each random stream of the target."""
        raise TypeError(f"{type(self).__name__} does not define keys()")

    def advance(self, used: set[str]) -> None:
        """Note that streams of the target's own were used, so that the next call differs."""

    def pure(self, notes: Notes) -> Pure:
        """Return the target as `pure(tensors, state, keys, args, kwargs) -> (out, state)`.

        It closes over no array.
        """
        raise TypeError(f"{type(self).__name__} does not define pure()")

    def build(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        """Return a plain module with the given tensors and state in it."""
        raise TypeError(f"{type(self).__name__} does not define build()")


class Notes:
    """What is seen while the target is traced.

    Attributes:
        written: Names of the state that the target changed.
        used: Names of the random streams that it used.
    """

    def __init__(self) -> None:
        self.written: set[str] = set()
        self.used: set[str] = set()


# ---- NNX ----------------------------------------------------------------------------------------


def _read_nnx(target: nnx.Module) -> Read:
    names: dict[int, list[str]] = {}
    found: dict[int, Variable] = {}
    for name, variable in walk(target):
        if isinstance(variable, nnx.Param):
            names.setdefault(id(variable), []).append(name)
            found[id(variable)] = variable
    layers = {_path(path): layer for path, layer in nnx.iter_modules(target)}
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


def _path(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


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
        parameters = inspect.signature(type(target).__call__).parameters if callable(target) else {}
        self.takes_rngs = "rngs" in parameters

    def state_variables(self) -> Iterator[tuple[str, Variable]]:
        for path, node in nnx.iter_graph(self.template):
            if isinstance(node, nnx.Variable) and not isinstance(node, (Hole, nnx.RngState)):
                yield _path(path), node

    def keys(self, rngs: nnx.Rngs | None) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for name, stream in self._streams():
            if rngs is not None and (stream.tag in rngs or "default" in rngs):
                found[name] = rngs[stream.tag]()
            else:
                found[name] = jax.random.fold_in(stream.key[...], stream.count[...])
        if self.takes_rngs and rngs is not None:
            found.update((f"{_GIVEN}{tag}", stream()) for tag, stream in rngs.items())
        return found

    def _streams(self) -> Iterator[tuple[str, nnx.RngStream]]:
        for path, node in nnx.iter_graph(self.template):
            if isinstance(node, nnx.RngStream):
                yield _path(path), node

    def advance(self, used: set[str]) -> None:
        for name, stream in self._streams():
            if name in used:
                stream.count[...] += 1

    def pure(self, notes: Notes) -> Pure:
        graphdef, state = nnx.split(self.template)
        paths = [(path, _path(path), leaf) for path, leaf in nnx.to_flat_state(state)]
        kinds, takes_rngs, spec = self.kinds.held, self.takes_rngs, self.spec.held
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
            if takes_rngs and (own := _own_rngs(keys)):
                kwargs = {"rngs": nnx.Rngs(**own), **kwargs}
            out = module(*args, **kwargs)
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


_GIVEN = "given:"


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


# ---- Linen --------------------------------------------------------------------------------------


def _read_linen(target: Linen) -> Read:
    flat = _flat(target.variables.get("params", {}))
    beside: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, value in flat.items():
        beside.setdefault(_path(path[:-1]), {})[path[-1]] = tuple(value.shape)
    tensors = [
        tensor_spec([_path(p)], target.layers.get(p[:-1]), beside[_path(p[:-1])], value)
        for p, value in flat.items()
    ]
    spec = TargetSpec(type(target.module).__name__, tuple(tensors))
    values = {_path(path): value for path, value in flat.items()}
    return Read(spec, values, LinenTarget(target, spec, {_path(p): p for p in flat}))


def _flat(tree: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return the leaves of nested mappings by path."""
    if not isinstance(tree, Mapping):
        return {above: tree}
    made: dict[tuple[str, ...], Any] = {}
    for key in sorted(tree, key=natural):
        made.update(_flat(tree[key], (*above, key)))
    return made


def _nested(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for path, value in flat.items():
        node = made
        for step in path[:-1]:
            node = node.setdefault(step, {})
        node[path[-1]] = value
    return made


class LinenTarget(Adaptor):
    """A Linen target. Modes are arguments of its call, as Linen has them.

    Args:
        target: The choice object.
        spec: Its parameters.
        paths: Path in `params` of each parameter, by name.
    """

    def __init__(
        self, target: Linen, spec: TargetSpec, paths: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.spec = Box(spec)
        rest = {k: v for k, v in target.variables.items() if k != "params"}
        others = _flat(rest)
        self.module = Box(target.module)
        self.paths = Box(dict(paths))
        self.state_paths = Box({_path(path): path for path in others})
        self.buffers = nnx.Dict({_path(path): Fixed(value) for path, value in others.items()})

    def state_variables(self) -> Iterator[tuple[str, Variable]]:
        yield from ((name, self.buffers[name]) for name in self.state_paths.held)

    def keys(self, rngs: nnx.Rngs | None) -> dict[str, Array]:
        if rngs is None:
            return {}
        names = {"dropout" if tag == "default" else tag: stream for tag, stream in rngs.items()}
        return {name: stream() for name, stream in names.items()}

    def pure(self, notes: Notes) -> Pure:
        module, state_paths = self.module.held, self.state_paths.held
        collections = sorted({path[0] for path in state_paths.values()})

        def pure(tensors: Any, state: Any, keys: Any, args: Any, kwargs: Any) -> Any:
            own = {state_paths[name]: value for name, value in state.items()}
            variables = {"params": self._params(tensors), **_nested(own)}
            rngs = keys or None
            if not collections:
                return module.apply(variables, *args, rngs=rngs, **kwargs), {}
            out, updates = module.apply(variables, *args, rngs=rngs, mutable=collections, **kwargs)
            after = {_path(path): value for path, value in _flat(updates).items()}
            notes.written |= {n for n, v in after.items() if v is not state.get(n)}
            return out, {**state, **after}

        return pure

    def _params(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        return _nested({path: tensors[name] for name, path in self.paths.held.items()})

    def build(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        own = {self.state_paths.held[name]: value for name, value in state.items()}
        return self.module.held.bind({"params": self._params(tensors), **_nested(own)})
