"""All rows at once: the target's own forward, or another method, runs once on real tensors.

A layer with a generated weight applies to every row the weight of the row's condition. There is no
`vmap`: control flow on values, caches and the user's classes do what they do in a plain call. The
result is exact where no row depends on another. The first call of a kind examines that: it runs all
rows once and follows them, then runs two conditions alone on their rows, and compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from hyperloom.torch._rules.rows.standin import Meeting
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.examine import Examination, examine
from hyperloom.torch._run.joined import CONSTANT, OfEachLater
from hyperloom.torch._run.kinds import kind_of
from hyperloom.torch._run.row_calls import RowCall, brought_together, cut, put_back
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._run.watching import watched
from hyperloom.torch._run.worn import Place, Worn, run_on, worn_of
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._target.functions import NotAtOnceError
from hyperloom.torch._target.trace import Trace
from hyperloom.torch._weights.rows import Rows
from hyperloom.torch._weights.weights import Weight


@dataclass(frozen=True)
class Laid:
    """A call laid out as rows.

    Attributes:
        how: In which way.
        call: The rows.
        lead: Sizes that come in the place of the first axis of what has rows; `()` to leave it.
        batch: Conditions of the batch; 0 where the rows are the user's own.
    """

    how: str
    call: RowCall
    lead: tuple[int, ...]
    batch: int

    def finished(self, output: Any, examination: Examination) -> Any:
        """Return the output with the batch in front, and everything that is shared in it too.

        An object that holds tensors, such as a cache, becomes one for each condition.
        """
        if not self.batch:
            return output
        has_rows, objects = iter(examination.outputs), iter(examination.objects)

        def one(leaf: Any) -> Any:
            if isinstance(leaf, CONSTANT):
                return leaf
            if not isinstance(leaf, Tensor):
                flags = next(objects)
                return OfEachLater(lambda: cut(leaf, flags, self.batch, not self.lead))
            if next(has_rows, False):
                return leaf.unflatten(0, self.lead) if self.lead else leaf
            return leaf.expand(self.batch, *leaf.shape)

        return tree_map(one, output)


def run_rows(
    runner: Runner,
    weights: Mapping[str, Weight | Tensor],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    """Run the target once on all rows, each with the weights of its condition.

    Raises:
        NotAtOnceError: Rows meet, or a function has no rule.
    """
    if runner.execution.randomness == "same" and runner.skeleton.module.training:
        raise NotAtOnceError("one draw is asked for all conditions")
    asks = runner.skeleton.code.on_gradients
    if call.by is None and asks:  # of all rows together, without a word
        raise NotAtOnceError(f"it uses {min(asks)}")
    if runner.skeleton.written:
        raise NotAtOnceError(f"it writes into its weight {min(runner.skeleton.written)!r}")
    if runner.skeleton.statistics_now():
        raise NotAtOnceError("it updates running statistics: its rows meet")
    worn = worn_of(runner, weights, shared, buffers, call.index)
    why = "it has no inputs with rows"
    place = partial(runner.skeleton.call, method=call.method)
    for laid in laid_out(call, worn.num):
        examination = examined(runner, place, worn, laid.call, (laid.how, kind_of(runner, call)))
        why = examination.why or (examination.of_batch() if laid.batch else "")
        if not why:
            # What gradients are taken for comes out as it is, not in another order.
            sorts = examination.plain and not examination.leaf
            together = brought_together(laid.call) if sorts else laid.call
            meeting = Meeting(together.rows, examination.uses, worn.device)
            with watched(runner, call) if laid.batch else nullcontext():
                output = run_on(place, worn.seats(meeting), meeting, together)
            if sorts:
                output = put_back(output, laid.call.rows, examination.outputs)
            if call.ragged is not None:
                return call.ragged.back(output, examination.outputs)
            return laid.finished(output, examination)
    raise NotAtOnceError(why)


def examined(
    runner: Runner, place: Place, worn: Worn, call: RowCall, kind: Any, keeps: bool = False
) -> Examination:
    """Return what is known of a kind of calls; find it out at the first."""
    known: dict[Any, Examination] = runner.memory.rows
    if kind in known:
        return known[kind]
    examination = examine(
        place, worn, call, Trace(runner.skeleton.module.named_modules(), draws=not keeps), keeps
    )
    if len(call.rows.present()) > 1:  # the rows of one condition say nothing of others'
        known[kind] = examination
    return examination


def laid_out(call: Call, num_made: int) -> Iterator[Laid]:
    """Yield the ways in which a call can be laid out as rows."""
    if call.by is not None:
        yield Laid("rows", RowCall(call.by, call.inputs, call.kwargs, call.paired), (), 0)
        return
    if call.objects:  # one for each condition: they have no rows in front
        return
    (num,) = call.batch
    dims = tree_leaves((call.dims, call.kwargs_dims))
    leaves, tree = tree_flatten((call.inputs, call.kwargs))
    if len(dims) != len(leaves) or any(dim not in (0, None) for dim in dims):
        return
    places = [i for i, dim in enumerate(dims) if dim == 0]
    widths = {leaves[i].shape[1:2] for i in places}
    index = call.index
    base = Rows.blocks(num, 1) if index is None else Rows.of(num_made, index)
    if len(widths) == 1 and (width := widths.pop()):
        flattened = list(leaves)
        for i in places:
            flattened[i] = leaves[i].flatten(0, 1)
        rows, (args, kwargs) = base.fit(num * width[0]), tree_unflatten(flattened, tree)
        paired = frozenset(id(flattened[i]) for i in places)
        lead = (num, -1 if width[0] else 0)
        yield Laid("flattened", RowCall(rows, args, kwargs, paired), lead, num)
    if places:
        paired = frozenset(id(leaves[i]) for i in places)
        yield Laid("as they are", RowCall(base, call.inputs, call.kwargs, paired), (), num)
