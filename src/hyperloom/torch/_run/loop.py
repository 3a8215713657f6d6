"""One condition after the other: any target, with the meaning that a batch is defined by."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hyperloom.torch._run.joined import join
from hyperloom.torch._run.pairing import select_like
from hyperloom.torch._run.row_calls import RowCall, assembled, part_of
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._target.copies import Draws
from hyperloom.torch._weights.rows import Rows
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
    skeleton, dtypes, batch = runner.skeleton, runner.dtypes, call.batch
    last = len(batch) - 1
    tensors = {
        name: value if isinstance(value, Tensor) else value.dense().to(dtypes[name])
        for name, value in weights.items()
    }
    slices_of = {name: value.flatten(0, last).unbind(0) for name, value in tensors.items()}
    rows = iter(range(batch.numel()))

    def one(inputs: Any) -> Any:
        row = next(rows)
        again()
        tensors_of_one = {name: slices[row] for name, slices in slices_of.items()}
        with buffers.one(row) as written:
            return skeleton.call({**shared, **tensors_of_one}, written, *inputs, method=call.method)

    def of_rows(by: Rows, number: int) -> Any:
        again()
        tensors_of_one = {name: slices[number] for name, slices in slices_of.items()}
        inputs = part_of(RowCall(by, call.inputs, call.kwargs, call.paired), number)
        with buffers.one(number) as written:
            return skeleton.call({**shared, **tensors_of_one}, written, *inputs, method=call.method)

    with same_draws(runner) as again:
        if call.by is not None:
            return assembled([of_rows(call.by, i) for i in call.by.present()], call.by)
        dims = (call.dims, call.kwargs_dims)
        return join(_mapped(one, (call.inputs, call.kwargs), dims, batch), batch)


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
