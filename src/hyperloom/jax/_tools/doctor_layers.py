"""Readings inside the target: layer by layer, beside the template's own initialisation.

Measured on single networks, for a few conditions, and on as many drawn as the template was. What
layers return is reported to the host as it is computed, inside loops and transforms too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.backend.walk import base_of
from hyperloom._core.reports.measures import rms, told
from hyperloom._core.reports.readings import Inside, LayerReading, TensorReading
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._run.call import Asked, Call
from hyperloom.jax._run.rows import calls_on_rows
from hyperloom.jax._run.run import flat_encoded
from hyperloom.jax._run.strategies import Target
from hyperloom.jax._target.adaptor import Notes, Tap

_MOST_CONDITIONS = 3
_MOST_TRIED = 16


def floats(tree: Any) -> list[Array]:
    """Return the floating arrays of a tree."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, Array)]
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]


class Gradients:
    """Runs, and takes the gradients of a random projection of the outputs; compiled once.

    Args:
        run: `run(tensors, *args)` returns any outputs; `tensors` is `{name: array}`.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        def loss(tensors: Any, *args: Any) -> tuple[Array, list[Array]]:
            outputs = floats(run(tensors, *args))
            return project(outputs), outputs

        self.gradient = jax.grad(loss, has_aux=True)
        self.step = jax.jit(self.gradient)
        self.ways: dict[str, bool] = {}

    def __call__(self, tensors: Any, *args: Any) -> tuple[list[Array], dict[str, Array | None]]:
        """Return the floating outputs, and for each tensor its gradient.

        It is `None` where there is no way from the tensor to the outputs.
        """
        if not self.ways:
            names = sorted(tensors)  # the order of the leaves
            results = _depend(jax.make_jaxpr(self.gradient)(tensors, *args).jaxpr)
            self.ways = dict(zip(names, results[: len(names)], strict=True))
        gradients, outputs = self.step(tensors, *args)
        # What depends on nothing is a zero put in where there is no way, or a constant gradient.
        there = {n: self.ways[n] or bool(jnp.any(gradients[n])) for n in tensors}
        return outputs, {n: gradients[n] if there[n] else None for n in tensors}


def project(outputs: Sequence[Array]) -> Array:
    """Return a random projection of the outputs, always the same."""
    total = jnp.zeros(())
    for i, out in enumerate(outputs):
        direction = jax.random.normal(jax.random.key(i), out.shape)
        wide = out if out.dtype == jnp.float64 else out.astype(jnp.float32)
        total = total + (wide * direction).sum() / math.sqrt(max(1, out.size))
    return total


def _depend(jaxpr: Any) -> list[bool]:
    """Say of each result whether it is computed from the arguments or from constants."""
    known: set[int] = {id(v) for v in (*jaxpr.invars, *jaxpr.constvars)}
    for equation in jaxpr.eqns:
        if any(id(v) in known for v in equation.invars):
            known.update(id(v) for v in equation.outvars)
    return [id(v) in known for v in jaxpr.outvars]


@dataclass
class _Layer:
    """Sums over the uses of a layer, forward and backward."""

    kind: str
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    uses: list[int] = field(default_factory=lambda: [0, 0])

    def rms(self, way: int) -> float:
        return math.sqrt(self.squares[way] / max(1, self.uses[way]))


class _Layers:
    """What layers return, in the runs since the last `take`."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.layers: dict[str, _Layer] = {}

    def take(self) -> dict[str, _Layer]:
        """Return the layers that ran, in the order of the target's tensors, and forget them."""
        jax.effects_barrier()
        layers, self.layers = self.layers, {}
        return {name: layers[name] for name in self.names if name in layers}

    def tap(self, path: str, kind: str, out: Any) -> Any:
        """Watch the first floating array that a layer with parameters returns."""
        leaves, tree = jax.tree.flatten(out)
        mine = floats(leaves)[:1]
        if path not in self.names or not mine:
            return out
        place = next(i for i, leaf in enumerate(leaves) if leaf is mine[0])
        leaves[place] = self._watched(path, kind)(leaves[place])
        return jax.tree.unflatten(tree, leaves)

    def _watched(self, path: str, kind: str) -> Any:
        def note(way: int, value: Array) -> None:
            jax.debug.callback(lambda square: add(way, float(square)), _mean_square(value))

        def add(way: int, square: float) -> None:
            layer = self.layers.setdefault(path, _Layer(kind))
            layer.squares[way] += square
            layer.uses[way] += 1

        def forward(value: Array) -> tuple[Array, None]:
            note(0, value)
            return value, None

        def backward(_: None, gradient: Array) -> tuple[Array]:
            note(1, gradient)
            return (gradient,)

        watched = jax.custom_vjp(lambda value: forward(value)[0])
        watched.defvjp(forward, backward)
        return watched


def _mean_square(value: Array) -> Array:
    return jnp.mean(jnp.square(value.astype(jnp.promote_types(value.dtype, jnp.float32))))


def look_inside(
    hnet: HyperNetwork, encoded: Encoded, asked: Asked, tensors: tuple[TensorReading, ...]
) -> Inside:
    """Run single networks for a few conditions, and as many of the template's own start."""
    generated = hnet.generator.tensors(flat_encoded(encoded), hnet.generator.trunk_key(None))
    names = dict.fromkeys(n.rpartition(".")[0] for t in hnet.plan.spec for n in t.names)
    layers, errors = _Layers(list(names)), ()
    places, calls = zip(*_first_calls(hnet, encoded.batch, asked), strict=True)
    each = [{name: value[place] for name, value in generated.items()} for place in places]
    try:
        run = _Runs(hnet, calls, layers.tap)
        ours, outputs = run(each)
        seen = layers.take()
        run([_native(hnet, i) for i in range(len(ours))])
        readings = tuple(_readings(seen, layers.take()))
    except Exception as error:  # the user's own modules: whatever they raise is told
        readings, errors = (), (told("layers are not measured", error),)
        try:
            ours, outputs = _Runs(hnet, calls)(each)
        except Exception as again:  # likewise
            return Inside(tensors, (), (), (*errors, told("tensors are not measured", again)))
    missing = [t.name for t in tensors if all(grads[t.name] is None for grads in ours)]
    used = _used(hnet, calls[0], each[0], missing[:_MOST_TRIED])
    read = tuple(
        replace(t, gradient=_gradient(ours, t.name), used=used.get(t.name)) for t in tensors
    )
    return Inside(read, readings, tuple(str(out.dtype) for out in outputs), errors)


def _first_calls(
    hnet: HyperNetwork, batch: tuple[int, ...], asked: Asked
) -> Iterator[tuple[Any, Call]]:
    """Yield the place and the call of the first few conditions; those without rows are left out."""
    if not batch:
        yield (), asked.of(hnet.runner, batch)
        return
    if asked.rows is None:
        whole = asked.of(hnet.runner, batch)
        calls = iter([(range(whole.num), whole)])
    else:
        calls = ((at, call) for at, _, call in calls_on_rows(hnet.runner, batch, asked))
    each = ((place, call, i) for at, call in calls for i, place in enumerate(at))
    for place, call, i in itertools.islice(each, _MOST_CONDITIONS):
        slices = jax.tree.map(lambda a, i=i: a[i], call.slices())
        yield int(place), call.with_slices(slices, ())


def _native(hnet: HyperNetwork, seed: int) -> dict[str, Array]:
    """Draw the generated tensors as the template's were; a base is what it is."""
    bases, tensors = hnet.generator.numbers()[1], {}
    draws = np.random.default_rng(seed)
    for entry in hnet.plan.entries:
        spec, base = hnet.plan.spec[entry.tensor], base_of(entry, bases)
        if base is None:
            base = spec.mean + spec.std * draws.standard_normal(spec.shape)
        tensors[entry.tensor] = jnp.asarray(base, spec.dtype)
    return tensors


def _network(hnet: HyperNetwork, call: Call, tap: Tap | None) -> Callable[..., Any]:
    """Return one network as `f(tensors, state, slices)`; `call` is that of any one condition."""
    runner = hnet.runner
    graphdef, _ = nnx.split(runner.modules())

    def run(tensors: Any, state: Any, slices: Any) -> Any:
        merged = replace(runner, **nnx.merge(graphdef, state, copy=True))
        target = Target(merged, merged.kept_tensors(), Notes(tap))
        one = call.with_slices(slices, ())
        return target.function(one)(tensors, one.slices(), *target.common(one))[0]

    return run


class _Runs:
    """Runs networks forward and backward, each on the inputs of its condition."""

    def __init__(self, hnet: HyperNetwork, calls: Sequence[Call], tap: Tap | None = None) -> None:
        self.state, self.calls = nnx.split(hnet.runner.modules())[1], calls
        self.gradients = Gradients(_network(hnet, calls[0], tap))

    def __call__(
        self, networks: list[dict[str, Array]]
    ) -> tuple[list[dict[str, Array | None]], list[Array]]:
        """Return the gradients of each network's tensors, and outputs."""
        gradients, outputs = [], []
        for tensors, call in zip(networks, self.calls, strict=True):
            outputs, grads = self.gradients(tensors, self.state, call.slices())
            gradients.append(grads)
        return gradients, outputs


def native_gradients(
    hnet: HyperNetwork, batch: tuple[int, ...], asked: Asked
) -> tuple[dict[str, Array], dict[str, Array | None]]:
    """Return tensors drawn as the template's own, and their gradients on the first inputs."""
    _, call = next(_first_calls(hnet, batch, asked))
    tensors = _native(hnet, 0)
    return tensors, _Runs(hnet, [call])([tensors])[0][0]


def _gradient(runs: list[dict[str, Array | None]], name: str) -> float | None:
    """Return the root mean square of a tensor's gradients; `None` where none came."""
    gradients = [np.asarray(grad) for grads in runs if (grad := grads[name]) is not None]
    return math.sqrt(sum(rms(g) ** 2 for g in gradients) / len(gradients)) if gradients else None


def _used(
    hnet: HyperNetwork, call: Call, tensors: dict[str, Array], names: Sequence[str]
) -> dict[str, bool]:
    """Tell of tensors without a gradient whether the outputs change with them."""
    if not names:
        return {}
    state, slices = nnx.split(hnet.runner.modules())[1], call.slices()
    network = jax.jit(_network(hnet, call, None))
    outputs = lambda tensors: floats(network(tensors, state, slices))  # noqa: E731
    before, is_used = outputs(tensors), {}
    for name in names:
        value = tensors[name]
        noise = jax.random.normal(jax.random.key(0), value.shape, value.dtype)
        size = max(rms(np.asarray(value)), 1e-2)
        after = outputs({**tensors, name: value + size * noise})
        is_used[name] = not all(bool((a == b).all()) for a, b in zip(before, after, strict=True))
    return is_used


def _readings(ours: dict[str, _Layer], native: dict[str, _Layer]) -> list[LayerReading]:
    return [
        LayerReading(
            name=name,
            kind=ours[name].kind,
            activation=ours[name].rms(0),
            native_activation=native[name].rms(0),
            gradient=ours[name].rms(1),
            native_gradient=native[name].rms(1),
        )
        for name in ours
        if name in native
    ]
