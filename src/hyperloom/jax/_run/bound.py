"""A bound target: a tree that stands for it, with the weights of some conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
from flax import nnx
from jax import Array

from hyperloom._core.backend.inputs import unpacked
from hyperloom._core.errors import did_you_mean, message
from hyperloom._core.plan.plan import Plan
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.generator import Generator
from hyperloom.jax._rules import interpret
from hyperloom.jax._run.call import Asked, Call
from hyperloom.jax._run.checks import as_rngs
from hyperloom.jax._run.pairing import Dims, unflat_batch
from hyperloom.jax._run.route import route, ways_of
from hyperloom.jax._run.rows import known_rows, on_rows
from hyperloom.jax._run.run import calls_of, flat_encoded, store, travel
from hyperloom.jax._run.runner import Runner
from hyperloom.jax._target.adaptor import Method, reach
from hyperloom.jax._target.refusal import naming_inputs
from hyperloom.jax._weights.make import make_weights


@dataclass(frozen=True, eq=False)
class _Structure:
    """What is no array of a bound network; equal for all conditions of one hypernetwork."""

    plan: Plan
    graphdef: Any
    runner: Runner
    batch: tuple[int, ...]
    rows: tuple[int, ...] | None

    def _same(self) -> tuple[Any, ...]:
        return (self.batch, self.rows, id(self.runner.memory), self.runner.execution, self.graphdef)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Structure) and self._same() == other._same()

    def __hash__(self) -> int:
        return hash(self._same()[:3])


class Bound:
    """The target with the weights of some conditions: what `HyperNetwork.bind` returns.

    Calls, methods, attributes and parts are the target's; a parameter is the generated array. It
    is a pytree of its weights, which goes into `jit`, `scan` and `vmap` as an argument. Nothing
    that a call does is kept: state comes back with `mutable=True`, and randomness needs `rngs`.
    """

    def __init__(self, structure: _Structure, arrays: tuple[Any, Any, Any]) -> None:
        # `arrays`: the weights, the generated tensors that all conditions share, the target's own.
        self.__dict__.update(_structure=structure, _arrays=arrays)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run the target; arguments as in a call of the hypernetwork, but for the condition."""
        return _run(self, None, inputs, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_structure" not in self.__dict__:
            raise AttributeError(name)
        return _attribute(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(_runner(self).target.outline())})

    def __setattr__(self, name: str, value: Any) -> None:
        way_out = "Change the target, and bind again."
        got = f"an attribute {name!r} to set"
        raise AttributeError(message("net", got, "a bound network as it is", way_out))

    def __repr__(self) -> str:
        structure: _Structure = self._structure
        told = f"conditions {structure.batch}" if structure.batch else "one condition"
        told += "" if structure.rows is None else f" for {len(structure.rows)} rows"
        return f"Bound({told}: {structure.plan.spec.name})"


class Part:
    """A part or a method of a bound network."""

    def __init__(self, net: Bound, path: str) -> None:
        self._net, self._path = net, path

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run it; arguments as in a call of the bound network."""
        return _run(self._net, self._path, inputs, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _attribute(self._net, f"{self._path}.{name}")

    def __getitem__(self, index: int) -> Any:
        return _attribute(self._net, f"{self._path}.{index}")

    def __repr__(self) -> str:
        return f"{self._path} of {self._net!r}"


def bind(
    generator: Generator, runner: Runner, encoded: Encoded, key: Array | None, rows: Any = None
) -> Bound:
    """Return the target with the weights of conditions; see `HyperNetwork.bind`."""
    if rows is not None:
        rows = tuple(known_rows(rows, encoded.batch).tolist())
    flat = flat_encoded(encoded)
    ways = ways_of(generator.plan, runner)
    weights, shared = make_weights(generator, flat, key, bool(encoded.batch), ways)
    graphdef, target_state = nnx.split(runner.modules())
    structure = _Structure(generator.plan, graphdef, runner, encoded.batch, rows)
    return Bound(structure, (weights, shared, target_state))


def _runner(net: Bound) -> Runner:
    """Return what runs the target: a copy, with the arrays of the tree in it."""
    structure: _Structure = net._structure
    modules = nnx.merge(structure.graphdef, net._arrays[2], copy=True)
    return replace(structure.runner, **modules)


def _run(
    net: Bound,
    method: Method,
    inputs: tuple[Any, ...],
    *,
    in_axes: Dims = 0,
    rngs: Any = None,
    state: Mapping[str, Array] | None = None,
    mutable: bool = False,
    **kwargs: Any,
) -> Any:
    structure: _Structure = net._structure
    weights, shared, _ = net._arrays
    runner = _runner(net)
    given, named = unpacked(inputs, kwargs)
    options: Any = {"method": method, "rows": structure.rows}
    asked = Asked(given, in_axes, named, as_rngs(rngs), state, mutable, **options)

    def part(weights: Any, call: Call) -> Any:
        way = route(structure.plan, runner, call, None)
        return travel(runner, way, lambda source, _: (source, shared), weights, call)

    calls = calls_of(runner, structure.batch, asked)
    with naming_inputs(structure.plan.spec.name, given, named):
        if isinstance(calls, Call):
            result, notes = part(weights, calls)
        else:
            take = interpret.taken
            result, notes = on_rows(calls, lambda at, call: part(take(weights, at), call))
    return store(runner, asked, result, notes)


def _attribute(net: Bound, path: str) -> Any:
    """Return a parameter as an array, a part or method to be run, or what else it is."""
    structure: _Structure = net._structure
    plan, runner = structure.plan, _runner(net)
    names = {name: tensor.name for tensor in plan.spec for name in tensor.names}
    if path in names:
        return _tensor(net, names[path], runner)
    outline = runner.target.outline()
    try:
        attribute = reach(outline, path)
    except (AttributeError, LookupError) as error:
        if any(name.startswith(f"{path}.") for name in names):
            return Part(net, path)  # Linen shows what `setup` makes in a call only
        known = [name for name in dir(type(outline)) if not name.startswith("_")]
        way_out = did_you_mean(path, known)
        wanted = f"an attribute or method of {structure.plan.spec.name}"
        raise AttributeError(message("net", f"the name {path!r}", wanted, way_out)) from error
    if isinstance(attribute, nnx.Variable):
        return attribute[...]
    holds = any(name.startswith(f"{path}.") for name in names)
    return Part(net, path) if holds or callable(attribute) else attribute


def _tensor(net: Bound, name: str, runner: Runner) -> Array:
    """Return a tensor of the target, `(*batch, *shape)` where it is generated."""
    structure: _Structure = net._structure
    weights, shared, _ = net._arrays
    if name not in weights:
        return {**runner.kept_tensors(), **shared}[name]
    num = 1
    for size in structure.batch:
        num *= size
    one = {name: weights[name]}
    formed = interpret.formed_for_all(one, num, None) if structure.batch else one
    return unflat_batch(formed[name], structure.batch)


def _flatten(net: Bound) -> tuple[tuple[Any, Any, Any], _Structure]:
    return net._arrays, net._structure


jax.tree_util.register_pytree_node(Bound, _flatten, lambda s, arrays: Bound(s, tuple(arrays)))
