"""The readings of `doctor()`: one call with its gradients, and what is between its ends.

Nothing is left behind: all of it is done by a copy of the hypernetwork.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.backend.inputs import unpacked
from hyperloom._core.backend.walk import base_of
from hyperloom._core.reports.doctor import Report
from hyperloom._core.reports.measures import (
    Stages,
    collapsed,
    differences,
    read_tensor,
    rms,
    starts,
    told,
)
from hyperloom._core.reports.readings import PartReading, Readings, TensorReading
from hyperloom.jax._generate.conditions import EmbeddingCondition
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.heads import HeadModule
from hyperloom.jax._generate.table import Table
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._run.call import Asked
from hyperloom.jax._run.checks import as_rngs
from hyperloom.jax._run.explain import explain
from hyperloom.jax._run.run import run_encoded
from hyperloom.jax._run.runner import Memory
from hyperloom.jax._target.adaptor import Box, dotted
from hyperloom.jax._target.arrays import is_array
from hyperloom.jax._tools.doctor_agreement import (
    Examined,
    disagreements,
    generator_of,
    runner_of,
)
from hyperloom.jax._tools.doctor_layers import Gradients, floats, look_inside, native_gradients
from hyperloom.jax._tools.doctor_steps import check_optimizer, measure_step
from hyperloom.jax._tools.functional import functional

_CUTS = ("stop_gradient, a cast to ints", "stop_gradient, a cast to ints")


def examine(
    hnet: HyperNetwork,
    condition: Any,
    inputs: tuple[Any, ...],
    options: dict[str, Any],
    optimizer: Any = None,
) -> Report:
    """Take all readings and return the report; inputs and options are those of a call."""
    check_optimizer(optimizer)
    copy = nnx.clone(hnet)
    seen = hnet.memory  # what is warned of here was not the user's own call
    copy._memory = Box(Memory(dict(seen.loops), set(seen.warned)))
    carry = options.pop("carry", None) if hnet.plan.condition.has_carry else None
    in_axes, rngs, state = map(options.pop, ("in_axes", "rngs", "state"))
    own = {name: options.pop(name) for name in ("method", "rows")}
    given, kwargs = unpacked(inputs, options)
    asked = Asked(given, in_axes, kwargs, as_rngs(rngs), state, **own)
    call, plan = Examined(copy, condition, carry, asked), hnet.plan
    readings = Readings(plan.spec.name, 1, parts=_parts(hnet), kept=plan.kept, cuts=_CUTS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            encoded = call.encode(condition)
            readings = replace(readings, conditions=max(1, int(np.prod(encoded.batch))))
            run, (net, params) = runner_of(call), functional(copy)
            outputs, found = Gradients(run)(params, net)
            grads = {name: found[name] for name in params}
            how = explain(copy.generator, copy.runner, encoded, call.asked())
        except Exception as error:  # whatever the user's modules raise is what is to be told
            return Report(replace(readings, errors=(told("the call fails", error),)))
        heard = dict.fromkeys(str(w.message).strip().splitlines()[0] for w in caught)
        stages, tensors, unchecked = _differences(call, encoded)
        inside, step = look_inside(copy, encoded, call.asked(), tensors), None
        tolerance = _tolerance(hnet, outputs)
        apart, unable = disagreements(call, outputs, grads, tolerance)
        if optimizer is not None:
            generate = partial(generator_of(call), net)
            native = partial(native_gradients, copy, encoded.batch, call.asked())
            read = measure_step(hnet, optimizer, params, grads, generate, native, inside.tensors)
            inside, step = replace(inside, tensors=read[0]), read[1]
    return Report(
        replace(
            readings,
            parts=_parts(hnet, grads, encoded.ids),
            tensors=inside.tensors,
            layers=inside.layers,
            stages=stages,
            tolerance=tolerance,
            unchecked=unchecked,
            strategy=f"run as {how.strategy}: {how.reason}",
            slow=how.slow,
            dtypes=(tuple(str(out.dtype) for out in outputs), inside.dtypes),
            step=step,
            disagreements=apart,
            warnings=(*(f"the call warns: {line}" for line in heard), *inside.errors, *unable),
        )
    )


def _tolerance(hnet: HyperNetwork, outputs: list[Array]) -> float:
    """Return the relative difference that rounding makes, in the coarsest dtype in play."""
    dtypes = [out.dtype for out in outputs] + [jnp.dtype(t.dtype) for t in hnet.plan.spec]
    floating = [d for d in dtypes if jnp.issubdtype(d, jnp.floating)]
    return 16 * max((float(jnp.finfo(d).eps) for d in floating), default=1e-7)


def numbers(values: Iterable[Any]) -> list[np.ndarray]:
    """Return arrays as NumPy's."""
    return [np.asarray(value) for value in values]


# ---- the parts of the generator -----------------------------------------------------------------


def _parts(
    hnet: HyperNetwork,
    grads: Mapping[str, Array | None] | None = None,
    ids: Array | None = None,
) -> tuple[PartReading, ...]:
    """Read every parameter; before the call, without gradients."""
    idle, alike = _idle(hnet, ids), _alike(hnet)
    readings: list[PartReading] = []
    for name, value in functional(hnet)[1].items():
        at_random, starts_zero = starts(hnet.plan, _neutral(name), value.ndim)
        grad, array = None if grads is None else grads[name], np.asarray(value)
        readings.append(
            PartReading(
                name=name,
                shape=tuple(value.shape),
                dtype=str(value.dtype),
                device=", ".join(sorted(str(d) for d in value.devices())),
                trains=True,
                finite=bool(np.isfinite(array.astype(np.float64)).all()),
                dead=at_random and not bool(array.any()),
                alike=name in alike,
                starts_zero=starts_zero,
                idle=idle.get(name, ""),
                gradient=None if grad is None else rms(np.asarray(grad)),
            )
        )
    return tuple(readings)


def _neutral(name: str) -> str:
    """Return a parameter's name as a checkpoint has it, with the number of a table's block."""
    return re.sub(r"^(trunks\.\d+)\.layers\.", r"\1.", name).replace(".blocks.", ".")


def _idle(hnet: HyperNetwork, ids: Array | None) -> dict[str, str]:
    """Return the parameters that this call has no use for, with the reason."""
    why_idle: dict[str, str] = {}
    if not hnet.plan.widths:  # tables by id only: no features, so no vector is looked at
        names = functional(hnet)[1]
        why_idle = {name: "only ids used" for name in names if name.startswith("condition.")}
    if ids is None:
        return why_idle
    for path, table in nnx.iter_modules(hnet):
        if not isinstance(table, Table):
            continue
        first, known = 0, np.asarray(ids)
        for i, block in enumerate(table.blocks):
            last = first + block.shape[0]
            if not ((known >= first) & (known < last)).any():
                why_idle[f"{dotted(path)}.blocks.{i}"] = "other ids"
            first = last
    return why_idle


def _alike(hnet: HyperNetwork) -> set[str]:
    """Return the embeddings whose rows are all the same, though they should differ."""
    names: set[str] = set()
    for path, module in nnx.iter_modules(hnet):
        name = dotted(path)
        if isinstance(module, EmbeddingCondition) and collapsed(np.asarray(module.table.rows()), 0):
            names |= {f"{name}.table.blocks.{i}" for i in range(len(module.table.blocks))}
        elif isinstance(module, HeadModule) and isinstance(module.slots, Table):
            blocks = enumerate(numbers(block[...] for block in module.slots.blocks))
            names |= {f"{name}.slots.blocks.{i}" for i, b in blocks if collapsed(b, 1)}
        elif isinstance(module, HeadModule) and module.slots is not None:
            names |= {f"{name}.slots"} if collapsed(np.asarray(module.slots[...]), 0) else set()
    return names


# ---- what depends on the condition --------------------------------------------------------------


def _differences(call: Examined, encoded: Encoded) -> tuple[Stages, tuple[TensorReading, ...], str]:
    """Run the same inputs with other conditions; return how far each stage differs."""
    plan, (graphdef, state) = call.hnet.plan, nnx.split(call.hnet)
    bases = call.hnet.generator.numbers()[1]

    @jax.jit
    def measured(state: Any, here: Encoded) -> Any:
        copy_of_net = nnx.merge(graphdef, state, copy=True)
        generator = copy_of_net.generator
        key = generator.trunk_key(call.streams())
        features = generator.features(here, key) if plan.widths else {}
        out = run_encoded(generator, copy_of_net.runner, here, call.asked())
        return list(features.values()), generator.tensors(here, key), floats(out)

    def seen(encoded: Encoded) -> Any:
        return jax.tree.map(np.asarray, measured(state, encoded.each(lambda value: value)))

    other, unchecked = _others(call, encoded)
    one = seen(encoded)
    two = None if other is None else seen(other)
    tensors = tuple(
        read_tensor(
            plan,
            entry,
            one[1][entry.tensor],
            None if two is None else two[1][entry.tensor],
            None if (base := base_of(entry, bases)) is None else np.asarray(base),
        )
        for entry in plan.entries
    )
    if other is None or two is None:
        return (), tensors, unchecked
    vectors = (numbers(_seen_by_trunk(encoded)), numbers(_seen_by_trunk(other)))
    pairs = [(one[i], two[i]) for i in range(3)]
    return differences(plan, vectors, pairs[0], pairs[1], pairs[2]), tensors, unchecked


def _others(call: Examined, encoded: Encoded) -> tuple[Encoded | None, str]:
    """Return as many other conditions, each in the place of one that differs from it."""
    condition = call.hnet.condition
    if isinstance(condition, EmbeddingCondition):
        num = condition.table.num
        if num < 2:
            return None, "there is only one id"
        assert encoded.ids is not None
        return call.encode((encoded.ids + 1) % num), ""
    batch = encoded.batch
    if np.prod(batch) < 2:
        return None, "it takes a batch of two conditions or more"
    if not _raw_differs(call.condition, batch):
        return None, "the conditions given are all the same"

    def rolled(value: Array) -> Array:
        flat = value.reshape(-1, *value.shape[len(batch) :])
        return jnp.roll(flat, 1, 0).reshape(value.shape)

    return encoded.each(rolled), ""


def _seen_by_trunk(encoded: Encoded) -> list[Array]:
    """Return what trunks see of conditions: vectors, and contexts if there are any."""
    return [encoded.vector] + ([] if encoded.context is None else [encoded.context])


def _raw_differs(condition: Any, batch: tuple[int, ...]) -> bool:
    """Whether the raw values differ from one condition to the next; unknown counts as yes."""
    arrays = numbers(
        leaf
        for leaf in jax.tree.leaves(condition)
        if is_array(leaf) and tuple(leaf.shape[: len(batch)]) == batch
    )
    rows = [value.reshape(-1, *value.shape[len(batch) :]) for value in arrays]
    return not rows or any(bool((r[1:] != r[:1]).any()) for r in rows)
