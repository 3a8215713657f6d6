"""The weights of one condition at a time: what comes in factors is not formed.

A stand-in holds the parts of one condition, and layers are applied by them. Code of the target's
that needs a tensor gets it; where a stand-in does not reach at all, the weights are formed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import _StopRecomputationError

from hyperloom.torch._rules.standin import Generated
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.kinds import kind_of
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._target.copies import Copies, Draws
from hyperloom.torch._target.placeholder import UngeneratedError
from hyperloom.torch._target.trace import Trace
from hyperloom.torch._weights.factored import LowRankWeight, ScaledWeight, ShiftedWeight
from hyperloom.torch._weights.weights import Weight

# The second is how a recomputation ends that was started by checkpointing around the call; after
# the third, more is generated.
ENDS_THE_CALL = (torch.OutOfMemoryError, _StopRecomputationError, UngeneratedError)
_IN_FACTORS = (LowRankWeight, ScaledWeight, ShiftedWeight)


class Each:
    """The weights of each condition of a call.

    Args:
        runner: What runs.
        weights: Tensors `(*batch, *shape)` or weight objects `(B, ...)` by name.
        axes: Axes of the batch in tensors.
        formed: Whether all weights are formed.
    """

    def __init__(
        self, runner: Runner, weights: Mapping[str, Weight | Tensor], axes: int, formed: bool
    ) -> None:
        self.dtypes = runner.dtypes
        self.parts: dict[str, tuple[Weight, list[tuple[Tensor, ...]]]] = {}
        self.tensors: dict[str, Any] = {}
        for name, value in weights.items():
            if isinstance(value, Tensor):
                self.tensors[name] = value.flatten(0, axes - 1).unbind(0) if axes else (value,)
            elif formed or not _in_factors(value):
                self.tensors[name] = value.dense().to(self.dtypes[name]).unbind(0)
            else:
                weight = value.to(self.dtypes[name])
                self.parts[name] = weight, [part.unbind(0) for part in weight.owned]

    def of(self, number: int) -> dict[str, Tensor]:
        """Return the tensors and stand-ins of one condition, by name."""
        tensors = {name: values[number] for name, values in self.tensors.items()}
        for name, (weight, owned) in self.parts.items():
            of_one = weight.with_owned(tuple(values[number] for values in owned))
            tensors[name] = Generated.of(of_one, self.dtypes[name])
        return tensors


def _in_factors(weight: Weight) -> bool:
    return isinstance(weight, _IN_FACTORS) and len(weight.shape) >= 2


def by_factors(
    runner: Runner,
    weights: Mapping[str, Weight | Tensor],
    call: Call,
    run: Callable[[Call, Each], Any],
) -> Any:
    """Run with weights in factors; where a target cannot be run so, with weights that are formed.

    The first call of a kind that fails leaves no trace.

    Args:
        runner: What runs.
        weights: The generated weights of all conditions.
        call: The inputs.
        run: Runs the target with the inputs and the weights of each condition.
    """
    memory, axes = runner.memory, len(call.batch)
    factored = any(isinstance(w, Weight) and _in_factors(w) for w in weights.values())
    if not factored or torch.compiler.is_compiling():
        return run(call, Each(runner, weights, axes, formed=False))
    kind = kind_of(runner, call)
    if memory.in_factors.get(kind):
        return run(call, Each(runner, weights, axes, formed=False))
    if kind not in memory.in_factors:
        inputs = (call.inputs, call.kwargs)
        trace, draws = Trace(runner.skeleton.module.named_modules(), inputs), Draws()
        copies = Copies(inputs)
        try:
            output = run(call.over(copies), Each(runner, weights, axes, formed=False))
        except ENDS_THE_CALL:
            raise
        except Exception:  # the run with formed weights says it too
            pass
        else:
            copies.give_back()
            memory.in_factors[kind] = True
            return output
        with runner.skeleton.lock:
            trace.restore()
        draws.restore()
        output = run(call, Each(runner, weights, axes, formed=True))
        # Only now: a call that fails both ways is an error.
        memory.in_factors[kind] = False
        return output
    return run(call, Each(runner, weights, axes, formed=True))
