"""`explain()`: how a call would be run, found by tracing it; nothing is computed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
from flax import nnx

from hyperloom._core.plan.cost import Layer
from hyperloom._core.reports.explanation import Explanation, used
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.generator import Generator
from hyperloom.jax._run.call import Asked, Call
from hyperloom.jax._run.route import route
from hyperloom.jax._run.run import calls_of, make_and_run
from hyperloom.jax._run.runner import Runner
from hyperloom.jax._target.refusal import naming_inputs
from hyperloom.jax._weights.choose import device_class


def explain(generator: Generator, runner: Runner, encoded: Encoded, asked: Asked) -> Explanation:
    """Trace a call, and note what was chosen for every use of a generated tensor."""
    plan, batch = generator.plan, encoded.batch
    size, single = encoded.vector.dtype.itemsize, not batch
    notes: list[tuple[str, str, str, Layer | None]] = []

    def record(name: str, operation: str, way: str, layer: Layer | None) -> None:
        notes.append((name, operation, way, layer))

    calls, key = calls_of(runner, batch, asked), generator.trunk_key(asked.streams)
    call = calls if isinstance(calls, Call) else calls[0][2]
    graphdef, state = nnx.split((generator.modules(), runner.modules()))

    def run(state: Any, encoded: Encoded) -> Any:
        # A copy that is traced too: a batch norm in the trunk keeps statistics of what it sees.
        mine, its = nnx.merge(graphdef, state, copy=True)
        copies = replace(generator, **mine), replace(runner, **its)
        return make_and_run(*copies, encoded, calls, key, record)[0]

    with naming_inputs(plan.spec.name, asked.inputs, asked.kwargs):
        jax.eval_shape(run, state, replace(encoded, carry=None))
    way = route(plan, runner, call, size)  # tracing may have shown that it takes a loop
    names = [entry.tensor for entry in plan.entries]
    seen = {name for name, *_ in notes}
    notes += [(name, "other", "dense", None) for name in names if name not in seen]
    uses, device = [], device_class()
    # A loop's body may be traced more than once.
    for name, operation, choice, layer in dict.fromkeys(notes):
        if name in plan.shared:  # however it is handed to the target
            choice, layer = "shared", None
        uses.append(used(plan.spec[name], operation, choice, layer, size, device, single))
    reason = way.reason if asked.rows is None else f"{way.reason}; {_ROWS}"
    return Explanation(way.strategy, reason, math.prod(batch), tuple(uses))


_ROWS = "those with equally many rows are one batch"
