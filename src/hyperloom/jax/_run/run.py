"""Running a target on a batch of conditions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from hyperloom._core.errors import message
from hyperloom.jax._generate.conditions import Encoded
from hyperloom.jax._generate.norms import training
from hyperloom.jax._rules import interpret
from hyperloom.jax._run.call import Call
from hyperloom.jax._run.checks import check_state
from hyperloom.jax._target.adaptor import Notes
from hyperloom.jax._weights.choose import Record
from hyperloom.jax._weights.make import make_weights

if TYPE_CHECKING:
    from hyperloom.jax._hypernetwork import HyperNetwork


@dataclass(frozen=True)
class Extras:
    """What goes with a call beside its inputs.

    Attributes:
        keys: A key for each random stream of the target, one for all conditions.
        trunk_key: A key for dropout in the trunk, or `None`.
        state: The target's state for each condition, `{name: (*batch, *shape)}`; what it does
            not name is the target's own.
        mutable: Whether the state after the call is wanted.
    """

    keys: Mapping[str, Array]
    trunk_key: Array | None
    state: Mapping[str, Array]
    mutable: bool


Result = tuple[Any, dict[str, Any]]


def run_encoded(
    hnet: HyperNetwork,
    encoded: Encoded,
    call: Call,
    rngs: nnx.Rngs | None,
    state: Mapping[str, Array] | None = None,
    mutable: bool = False,
) -> Any:
    """Generate and run; return what a call of the hypernetwork returns, without a carry."""
    own = check_state(hnet, state or {}, encoded.batch)
    extras = Extras(hnet.target.keys(rngs), hnet._trunk_key(rngs), own, mutable)
    out, left = execute(hnet, encoded, call, extras)
    return (out, left) if mutable else out


def note(hnet: HyperNetwork, notes: Notes, extras: Extras) -> None:
    """Let streams that were used go on; say once that state of the target is not kept."""
    hnet.target.advance(notes.used)
    if notes.written and not extras.mutable and "lost" not in hnet._notices.held:
        hnet._notices.held.add("lost")
        warnings.warn(
            f"target: it updates its state, {sorted(notes.written)[0]!r} first, which is not "
            "kept. Call with mutable=True to get the state of each condition, or use eval().",
            stacklevel=4,
        )


def execute(hnet: HyperNetwork, encoded: Encoded, call: Call, extras: Extras) -> Result:
    """Generate and run, in as many parts as `hnet.execution` asks for.

    Returns:
        What the target returns, and its state after the call, `{}` unless wanted.
    """
    notes = Notes()
    keys = split_keys(extras.keys, call.batch)
    choice = hnet.execution
    at_once = choice.conditions_at_once(hnet.plan.output_bytes(1, encoded.vector.dtype.itemsize))
    num = call.batch[0] if len(call.batch) == 1 else 1
    size = num if at_once is None else min(at_once, num)

    def run(x: tuple[Any, ...]) -> Result:
        vector, ids, index, arrays, keys, state = x
        part = Call.of_arrays(call, arrays, vector.shape[:-1])
        key = None if extras.trunk_key is None else jax.random.fold_in(extras.trunk_key, index)
        own = Extras(keys, key, state, extras.mutable)
        return run_part(hnet, Encoded(vector, ids), part, own, notes)

    whole = size >= num
    if not whole or choice.recompute:
        _refuse_batch_statistics(hnet)
        run = jax.checkpoint(run) if choice.recompute else run
    paired = [d is not None for d in call.dims]
    if whole:
        arrays, given = call.arrays, run
        xs = (encoded.vector, encoded.ids, jnp.zeros((), int), arrays, keys, dict(extras.state))
        made = given(xs)
    else:
        made = _in_parts(run, call, paired, (encoded, keys, dict(extras.state)), size)
    note(hnet, notes, extras)
    return made


def _in_parts(
    run: Callable[..., Result], call: Call, paired: list[bool], rest: Any, size: int
) -> Result:
    """Run `size` conditions at a time, one part after the other, and join what they return."""
    encoded, keys, state = rest
    num = call.batch[0]
    moved = [
        jnp.moveaxis(a, d, 0) if d is not None else a
        for a, d in zip(call.arrays, call.dims, strict=True)
    ]
    own = [a for a, p in zip(moved, paired, strict=True) if p]

    def part(x: tuple[Any, ...]) -> Result:
        vector, ids, index, mine, keys, state = x
        given = iter(mine)
        arrays = [
            jnp.moveaxis(next(given), 0, d) if d is not None else a
            for a, d in zip(call.arrays, call.dims, strict=True)
        ]
        return run((vector, ids, index[0], arrays, keys, state))

    xs = (encoded.vector, encoded.ids, jnp.arange(num) // size, own, keys, state)
    full = num // size * size
    front = jax.tree.map(lambda a: a[:full].reshape(-1, size, *a.shape[1:]), xs)
    made = jax.tree.map(lambda a: a.reshape(full, *a.shape[2:]), jax.lax.map(part, front))
    if full == num:
        return made
    last = part(jax.tree.map(lambda a: a[full:], xs))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), made, last)


def _refuse_batch_statistics(hnet: HyperNetwork) -> None:
    """Raise if the trunk's batch norm would see a part of the batch only."""
    if training(hnet.trunks):
        way_out = "Use norm='rms' or 'layer', or call hnet.eval()."
        got = f"{hnet.execution} with a trunk whose batch norm is training"
        raise ValueError(message("execution", got, "all conditions of a batch at once", way_out))


def run_part(
    hnet: HyperNetwork,
    encoded: Encoded,
    call: Call,
    extras: Extras,
    notes: Notes,
    record: Record | None = None,
) -> Result:
    """Generate and run at once; `record` is told how generated tensors are used."""
    if len(call.batch) == 1:
        weights, shared = make_weights(hnet, encoded, call.rows(), extras.trunk_key)
    else:
        weights, shared = hnet._generate(encoded, extras.trunk_key), hnet._kept()
    return apply_weights(hnet, weights, shared, call, extras, notes, record)


def apply_weights(
    hnet: HyperNetwork,
    weights: Mapping[str, Any],
    shared: Mapping[str, Array],
    call: Call,
    extras: Extras,
    notes: Notes,
    record: Record | None = None,
) -> Result:
    """Run the target with weights of a batch of conditions, and `shared` for all of them."""
    pure = hnet.target.pure(notes)
    base = {n: v for n, v in hnet.target.state().items() if n not in extras.state}
    names = frozenset({*base, *extras.state})

    def target(tensors: Any, shared: Any, state: Any, keys: Any, arrays: Any) -> Result:
        args, kwargs = call.rebuild(arrays)
        out, left = pure({**shared, **tensors}, state, keys, args, kwargs)
        # Only what the target has from the start: it is what can be given back to it.
        return out, {n: v for n, v in left.items() if n in names} if extras.mutable else {}

    def one(weights: Any, own: Any, keys: Any, arrays: Any) -> Result:
        rest = (shared, {**base, **own}, keys, arrays)
        return interpret.call(target, weights, *rest, num_conditions=num, record=record)

    num = math.prod(call.batch)
    weights = interpret.with_kernels(weights, len(call.batch), num)
    function: Callable[..., Result] = one
    for size in reversed(call.batch):
        axes = (interpret.axes(weights), 0, 0, list(call.dims))
        function = jax.vmap(function, in_axes=axes, axis_size=size)
    return function(dict(weights), dict(extras.state), dict(extras.keys), call.arrays)


def split_keys(keys: Mapping[str, Array], batch: tuple[int, ...]) -> dict[str, Array]:
    """Return keys of its own for each condition."""
    if not batch:
        return dict(keys)
    return {name: jax.random.split(key, batch) for name, key in keys.items()}


def as_rngs(rngs: Any) -> nnx.Rngs | None:
    """Return random streams for a call, from streams, a key, or a dict of keys."""
    if rngs is None or isinstance(rngs, nnx.Rngs):
        return rngs
    if isinstance(rngs, Mapping):
        return nnx.Rngs(**rngs)
    if isinstance(rngs, Array):
        return nnx.Rngs(rngs)
    way_out = "Make one from a seed: jax.random.key(0)."
    raise TypeError(message("rngs", repr(rngs), "an nnx.Rngs, a key or a dict of keys", way_out))
