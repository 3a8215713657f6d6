"""A Linen module as target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import nullcontext
from typing import Any

import flax.linen as nn
import jax
from flax import nnx
from flax.core import DenyList
from jax import Array

from hyperloom._core.errors import message, positive_int, shown
from hyperloom._core.target.spec import TargetSpec
from hyperloom.jax._target.adaptor import Adaptor, Box, Method, Notes, Pure, Read, dotted, method_of
from hyperloom.jax._target.arrays import is_key
from hyperloom.jax._target.refusal import naming_inputs
from hyperloom.jax._target.spec import tensor_spec
from hyperloom.jax._target.values import cells_of, leaves_of, with_leaves
from hyperloom.jax._target.variables import Fixed, natural


class Linen:
    """A Linen module as target; or as condition or trunk, then called as in its example.

    Args:
        module: The module, unmodified.
        *inputs: Example inputs, from which it makes its parameters.
        rng: Key or int for `module.init`, or a dict of them; default 0.
        variables: Values to start from, `{"params": ..., "batch_stats": ...}`, e.g. of a trained
            network; `module.init` is then not run, only its shapes are traced. Default what
            `module.init` gives.
        **kwargs: Keyword arguments of the example call.

    Raises:
        TypeError: Not a Linen module, or `variables` that are no dict.
        ValueError: `variables` whose parameters are not those of the module.
    """

    def __init__(
        self, module: nn.Module, *inputs: Any, rng: Any = 0, variables: Any = None, **kwargs: Any
    ) -> None:
        if not isinstance(module, nn.Module):
            way_out = "An NNX module is given as target itself."
            got = module if isinstance(module, type) else f"a {type(module).__name__}"
            raise TypeError(message("Linen(module)", got, "a flax.linen.Module", way_out))
        self.module, self.inputs, self.kwargs = module, inputs, kwargs
        self.layers: dict[tuple[str, ...], nn.Module] = {}
        keys = _as_keys(rng)
        if variables is not None:
            _check_variables(variables)

        def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            self.layers.setdefault(context.module.path, context.module.clone(parent=None))
            return call(*args, **kwargs)

        name = type(module).__name__
        with nn.intercept_methods(note), naming_inputs(name, inputs, kwargs):
            if variables is None:
                initial: Any = nn.unbox(module.init(keys, *inputs, **kwargs))
                self.variables = _without_sown(module, initial, keys, inputs, kwargs)
                return
            # Only shapes and layers are wanted: nothing is computed, no parameter is drawn.
            shapes: Any = jax.eval_shape(lambda: nn.unbox(module.init(keys, *inputs, **kwargs)))
        variables = nn.unbox(variables)
        _check_params(variables, shapes)
        self.variables = _without_sown(module, variables, keys, inputs, kwargs)

    def __repr__(self) -> str:
        return f"Linen({type(self.module).__name__})"


def _as_keys(rng: Any) -> Any:
    """Return keys for `module.init`, from a key, an int, or a dict of them."""
    given = rng if isinstance(rng, Mapping) else {"params": rng}
    if not {"params", "default"} & set(given):
        wanted = "a dict with a key or an int for the stream 'params'"
        raise ValueError(message("Linen(rng)", shown(rng), wanted))
    for name, key in given.items():
        if not isinstance(name, str) or not (type(key) is int or is_key(key)):
            wanted = "a key, an int, or a dict from names of streams to them"
            raise TypeError(message("Linen(rng)", shown(rng), wanted))
        if type(key) is int:
            positive_int("Linen(rng)", key, least=0)
    return jax.tree.map(lambda k: jax.random.key(k) if isinstance(k, int) else k, rng)


def _check_variables(variables: Any) -> None:
    """Raise unless given variables are collections, one of them of parameters."""
    if not isinstance(variables, Mapping) or not isinstance(variables.get("params", {}), Mapping):
        got, wanted = f"a {type(variables).__name__}", 'a dict such as {"params": {...}}'
        raise TypeError(message("Linen(variables)", got, wanted))


def _check_params(variables: Any, shapes: Any) -> None:
    """Raise unless given variables hold the parameters that the module makes."""
    expected, given = _flat(shapes.get("params", {})), _flat(variables.get("params", {}))
    for path in sorted({*expected, *given}):
        shape, wanted = (tuple(t[path].shape) if path in t else None for t in (given, expected))
        if shape != wanted:
            right = "no such parameter" if wanted is None else f"shape {wanted}"
            got = f"none for {dotted(path)!r}" if shape is None else f"{dotted(path)!r}, {shape}"
            raise ValueError(message("Linen(variables)", got, f"{right}, as the module makes"))


_NOT_PARAMS = DenyList("params")


def _without_sown(
    module: nn.Module, variables: Any, keys: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return variables without values that `init` has sown (losses, intermediates).

    A call adds to them: the tuples that grow in one are sown, others are variables.
    """
    kept = _flat(variables)
    if not any(isinstance(value, tuple) for path, value in kept.items() if path[0] != "params"):
        return dict(variables)

    def call(variables: Any) -> Any:
        return module.apply(variables, *inputs, rngs=keys, mutable=_NOT_PARAMS, **kwargs)[1]

    after = _flat(jax.eval_shape(call, variables))
    tuples = {path: len(value) for path, value in after.items() if isinstance(value, tuple)}
    return _nested({p: v for p, v in kept.items() if p not in tuples or len(v) == tuples[p]})


def read_linen(target: Linen) -> Read:
    """Read a Linen module with its variables."""
    flat = _flat(target.variables.get("params", {}))
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, value in flat.items():
        shapes.setdefault(dotted(path[:-1]), {})[path[-1]] = tuple(value.shape)
    tensors = [
        tensor_spec([dotted(p)], target.layers.get(p[:-1]), shapes[dotted(p[:-1])], value)
        for p, value in flat.items()
    ]
    spec = TargetSpec(type(target.module).__name__, tuple(tensors))
    values = {dotted(path): value for path, value in flat.items()}
    return Read(spec, values, LinenTarget(target, spec, {dotted(p): p for p in flat}))


def _flat(tree: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return the leaves of nested mappings by path."""
    if not isinstance(tree, Mapping):
        return {above: tree}
    leaves: dict[tuple[str, ...], Any] = {}
    for key in sorted(tree, key=natural):
        leaves.update(_flat(tree[key], (*above, key)))
    return leaves


def _nested(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        node = tree
        for step in path[:-1]:
            node = node.setdefault(step, {})
        node[path[-1]] = value
    return tree


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
        self.state_paths = Box({dotted(path): path for path in others})
        self.buffers = nnx.Dict({dotted(path): Fixed(value) for path, value in others.items()})

    def state(self) -> dict[str, Any]:
        buffers = self._own()
        return {n: leaf for name, value in buffers.items() for n, leaf in leaves_of(name, value)}

    def state_variables(self) -> Iterator[tuple[str, Any]]:
        for name in self.state_paths.held:
            yield from cells_of(name, self.buffers[name])

    def _own(self) -> dict[str, Any]:
        return {name: self.buffers[name].get_raw_value() for name in self.state_paths.held}

    def keys(self, rngs: nnx.Rngs | None, method: Method = None) -> dict[str, Array]:
        if rngs is None:
            return {}
        # Where no stream has the name that is asked for, Linen takes that of the parameters.
        names = {"params" if tag == "default" else tag: stream for tag, stream in rngs.items()}
        return {name: stream() for name, stream in names.items()}

    def pure(self, notes: Notes, method: Method = None) -> Pure:
        module, buffers, paths = self.module.held, self._own(), self.state_paths.held

        def watched(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            if notes.tap is None or context.method_name != "__call__":
                return out
            return notes.tap(dotted(context.module.path), type(context.module).__name__, out)

        def called(module: Any, *args: Any, **kwargs: Any) -> Any:
            return method_of(module, method)(*args, **kwargs)

        def pure(tensors: Any, state: Any, keys: Any, args: Any, kwargs: Any) -> Any:
            held = {path: with_leaves(name, buffers[name], state) for name, path in paths.items()}
            known = {n for name, value in buffers.items() for n, _ in leaves_of(name, value)}
            # Collections that an earlier call has made; what it has sown, the call sows anew.
            more = {n: v for n, v in state.items() if n not in known and not isinstance(v, tuple)}
            held.update((tuple(name.split(".")), value) for name, value in more.items())
            variables = {"params": self._params(tensors), **_nested(held)}
            options: Any = {"rngs": keys or None, "method": None if method is None else called}
            options["mutable"] = _NOT_PARAMS
            with nullcontext() if notes.tap is None else nn.intercept_methods(watched):
                out, updates = module.apply(variables, *args, **options, **kwargs)
            return out, _left(_flat(updates), held, known, notes)

        return pure

    def _params(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        return _nested({path: tensors[name] for name, path in self.paths.held.items()})

    def outline(self) -> Any:
        return self.module.held

    def build(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        paths, buffers = self.state_paths.held, self._own()
        held = {path: with_leaves(name, buffers[name], state) for name, path in paths.items()}
        return self.module.held.bind({"params": self._params(tensors), **_nested(held)})


def _left(
    after: Mapping[tuple[str, ...], Any],
    before: Mapping[tuple[str, ...], Any],
    known: Set[str],
    notes: Notes,
) -> dict[str, Any]:
    """Return the state after a call; note what has changed and what is new.

    Args:
        after: Variables after the call, by path.
        before: Variables that the call was given.
        known: The names of the state before.
        notes: Where to note it.
    """
    left: dict[str, Any] = {}
    for path, value in after.items():
        name, old = dotted(path), dict(leaves_of(dotted(path), before.get(path)))
        leaves = dict(leaves_of(name, value))
        if not known.isdisjoint(leaves):
            left.update(leaves)
            notes.written |= {n for n, leaf in leaves.items() if leaf is not old.get(n)}
            continue
        left[name] = value
        notes.anew.add(name)
        if not isinstance(value, tuple):  # what is sown is no state
            notes.written.add(name)
    return left
