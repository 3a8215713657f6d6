"""One condition: the target is run once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hyperloom.torch._run.alone import Each, by_factors
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._weights.weights import Weight


def run_single(
    runner: Runner,
    weights: Mapping[str, Weight | Tensor],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    """Run the target once, with one condition's weights: tensors `(*shape)`, or objects."""

    def once(call: Call, each: Each) -> Any:
        tensors, chain = {**shared, **each.of(0)}, runner.chain
        x = None if chain is None else call.only_input()
        if chain is not None and x is not None:
            return chain.run(tensors, x)  # the same functions, without the modules around them
        given = call.inputs, call.kwargs
        with buffers.one(0) as written:
            return runner.skeleton.call(tensors, written, *given, method=call.method)

    return by_factors(runner, weights, call, once)
