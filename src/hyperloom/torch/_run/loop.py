"""One condition after the other: any target, with the meaning that a batch is defined by."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hyperloom.torch._run.alone import Each, by_factors
from hyperloom.torch._run.joined import join
from hyperloom.torch._run.pairing import select_like
from hyperloom.torch._run.row_calls import RowCall, assembled, part_of
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._target.copies import Draws
from hyperloom.torch._weights.weights import Weight

if TYPE_CHECKING:
    from hyperloom.torch._run.call import Call
    from hyperloom.torch._run.runner import Runner


def run_loop(
    runner: Runner,
    weights: Mapping[str, Weight | Tensor],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    """Run the target for each condition by itself; stack what it returns.

    Args:
        runner: What runs the target.
        weights: The generated weights of all conditions.
        shared: Tensors that all conditions share.
        call: The inputs.
        buffers: The target's buffers; what a condition writes, the next one finds.
    """
    return by_factors(runner, weights, call, partial(_each, runner, shared, buffers))


def _each(
    runner: Runner, shared: Mapping[str, Tensor], buffers: Buffers, call: Call, each: Each
) -> Any:
    rows = iter(range(call.batch.numel()))

    def run(number: int, inputs: Any) -> Any:
        again()
        tensors = {**shared, **each.of(number)}
        with buffers.one(number) as written:
            return runner.skeleton.call(tensors, written, *inputs, method=call.method)

    with same_draws(runner) as again:
        if call.by is not None:
            rows_of = RowCall(call.by, call.inputs, call.kwargs, call.paired)
            present = call.by.present() if call.ragged is None else range(call.by.num)
            outputs = [run(i, part_of(rows_of, i)) for i in present]
            if call.ragged is not None:
                return call.ragged.of_each(outputs)
            return assembled(outputs, call.by)
        dims = (call.dims, call.kwargs_dims)
        outputs = _mapped(
            lambda inputs: run(next(rows), inputs), (call.inputs, call.kwargs), dims, call.batch
        )
        return join(outputs, call.batch)


def _mapped(one: Callable[[Any], Any], inputs: Any, dims: Any, batch: Sequence[int]) -> list[Any]:
    """Run `one` on the inputs of every condition; return what it returns, in one row.

    No closure that calls itself: as a cycle it would hold the weights until the collector runs.
    """
    if not batch:
        return [one(inputs)]
    slices = (select_like(inputs, dims, i) for i in range(batch[0]))
    return [output for part in slices for output in _mapped(one, part, dims, batch[1:])]


@contextmanager
def same_draws(runner: Runner) -> Generator[Any]:
    """Give a function that winds the random generators back to here, if that is asked for."""
    if runner.execution.randomness != "same":
        yield lambda: None
        return
    yield Draws().restore
