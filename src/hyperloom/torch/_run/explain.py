"""What `explain()` reports of a call."""

from __future__ import annotations

import math

import torch

from hyperloom._core.plan.contraction import layer_of
from hyperloom._core.reports.explanation import Explanation, used
from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._generate.generator import Generator
from hyperloom.torch._run.call import Call, Uses
from hyperloom.torch._run.route import route
from hyperloom.torch._run.run import make_and_run
from hyperloom.torch._run.runner import Runner


def explain(generator: Generator, runner: Runner, encoded: Encoded, call: Call) -> Explanation:
    """Run once, and tell the way of the call and of each weight."""
    way, uses, plan = route(generator, runner, encoded, call, whole=True), Uses(), generator.plan
    reads = None
    if way.program is None:
        buffers = runner.buffers(encoded.ids, call.batch)
        with runner.skeleton.noting() as reads:
            make_and_run(generator, runner, way, encoded, call, buffers, uses)
        way = route(generator, runner, encoded, call, whole=True)  # a way that failed is another
    else:
        uses += [(name, "linear", choice, layer) for name, choice, layer in way.program.ways]
    seen = {name for name, *_ in uses}
    for entry in plan.entries:
        if entry.tensor not in seen:
            # A chain's steps do not come past: they use everything.
            unused = reads is not None and reads.names and entry.tensor not in reads.names
            operation, choice = ("none", "unused") if unused else ("other", "dense")
            uses.append((entry.tensor, operation, choice, None))
    num, single = math.prod(call.batch), not call.batch
    size, device = encoded.vector.element_size(), encoded.vector.device.type
    entries = {entry.tensor: entry for entry in plan.entries}
    told = []
    for name, operation, choice, layer in uses:
        if name in plan.shared:  # however it is handed to the target
            choice, layer = "shared", None
        rows = layer if isinstance(layer, int) else None
        layer = None if isinstance(layer, int) else layer
        if rows is not None and choice == "dense" and not single:
            layer = layer_of(plan, entries[name], num, rows, torch.is_grad_enabled())
        told.append(used(plan.spec[name], operation, choice, layer, size, device, single))
    slow = tuple(map(str, way.slow)) if uses.way is None else ()
    strategy, reason = uses.way or (way.strategy, way.reason)
    return Explanation(strategy, reason, 1 if single else num, tuple(told), slow)
