"""What `explain()` reports of a call."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from hyperloom._core.plan.contraction import layer_of
from hyperloom._core.reports.explanation import Explanation, used
from hyperloom.torch._generate.conditions import Encoded
from hyperloom.torch._run.call import CHAIN, Call, Notes
from hyperloom.torch._run.chain import Program
from hyperloom.torch._run.run import run_part

if TYPE_CHECKING:
    from hyperloom.torch._generate.generator import Generator
    from hyperloom.torch._run.runner import Runner


def explain(
    generator: Generator, runner: Runner, encoded: Encoded, call: Call, program: Program | None
) -> Explanation:
    """Run once, and note what was chosen; a program has chosen already."""
    notes = Notes()
    found = notes.uses
    if program is None:
        run_part(generator, runner, encoded, call, runner.buffers(encoded.ids, call.batch), notes)
    else:
        notes.chosen.strategy, notes.chosen.reason = "chain", CHAIN
        found += [(name, "linear", way, layer) for name, way, layer in program.ways]
    seen = {name for name, *_ in found}
    found += [
        (e.tensor, "other", "dense", None) for e in generator.plan.entries if e.tensor not in seen
    ]
    num, single = math.prod(call.batch), not call.batch
    size, device = encoded.vector.element_size(), encoded.vector.device.type
    entries = {entry.tensor: entry for entry in generator.plan.entries}
    uses = []
    for name, operation, choice, layer in found:
        if layer is None and choice == "dense" and not single:
            layer = layer_of(
                generator.plan, entries[name], num, call.rows(), torch.is_grad_enabled()
            )
        spec = generator.plan.spec[name]
        uses.append(used(spec, operation, choice, layer, size, device, single))
    how = notes.chosen
    return Explanation(how.strategy, how.reason, 1 if single else num, tuple(uses), how.slow)
