"""All rows at once: the target's own forward, or another method, runs once on real tensors.

A layer with a generated weight applies to every row the weight of the row's condition. There is no
`vmap`: control flow on values, caches and the user's classes do what they do in a plain call. The
result is exact where no row depends on another. The first call of a kind examines that: it runs all
rows once and follows them, then runs two conditions alone on their rows, and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from hyperloom.torch._rules.held import Kept
from hyperloom.torch._rules.hidden import NotAtOnceError
from hyperloom.torch._rules.rows.following import SameDraws, following, mark
from hyperloom.torch._rules.rows.standin import MARK, Meeting, RowWise, Uses, dense
from hyperloom.torch._rules.standin import Modes
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.kinds import kind_of
from hyperloom.torch._run.loop import CONSTANT
from hyperloom.torch._run.row_calls import (
    RowCall,
    brought_together,
    put_back,
    rows_of,
    tensors_in,
)
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._run.watching import watched
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._target.trace import Trace
from hyperloom.torch._weights.rows import NotRowsError, Rows
from hyperloom.torch._weights.weights import Dense, Weight

Seats = tuple[dict[str, Tensor], dict[str, Tensor]]
# Runs the target: (tensors by name, buffers by name, inputs, keyword inputs) -> what it returns.
Place = Callable[[Mapping[str, Tensor], dict[str, Tensor], tuple[Any, ...], dict[str, Any]], Any]

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


@dataclass
class Worn:
    """What a target is run with: generated weights, and tensors that all conditions share.

    Attributes:
        num: Conditions `B`.
        make: For each generated tensor, what returns its weight `(B, ...)`.
        shapes: Their shapes.
        dtypes: The dtypes that they are wanted in.
        shared: Tensors by name.
        buffers: Buffers by name; those in `make` have a value for each condition.
        device: Where they all are.
        modes: The modes in which weights are generated and become dense.
    """

    num: int
    make: Mapping[str, Callable[[], Weight]]
    shapes: Mapping[str, Any]
    dtypes: Mapping[str, torch.dtype]
    shared: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    device: torch.device
    modes: Modes

    def seats(self, meeting: Meeting, touched: set[str] | None = None) -> Seats:
        """Return tensors and buffers by name: a stand-in for what conditions differ in."""
        values = {name: self._stand_in(name, meeting, touched) for name in self.make}
        return self._seats(values)

    def _seats(self, values: Mapping[str, Tensor]) -> Seats:
        tensors = {name: value for name, value in values.items() if name not in self.buffers}
        buffers = {name: values.get(name, value) for name, value in self.buffers.items()}
        return {**self.shared, **tensors}, buffers

    def _stand_in(self, name: str, meeting: Meeting, touched: set[str] | None) -> RowWise:
        make, dtype, modes = self.make[name], self.dtypes[name], self.modes
        kept = Kept(lambda: replace(make().to(dtype), by=meeting.rows, modes=modes), modes)

        def weight() -> Weight:
            if touched is not None:
                touched.add(name)
            return kept()

        return RowWise.of(weight, self.shapes[name], dtype, name, meeting)

    def of_one(self, number: int, meeting: Meeting, names: set[str] | None = None) -> Seats:
        """Return tensors and buffers of one condition; of some only, and stand-ins for others."""
        wanted = set(self.make) if names is None else names
        values: dict[str, Tensor] = {
            name: self.make[name]().dense()[number].to(self.dtypes[name])
            if name in wanted
            else self._stand_in(name, meeting, None)
            for name in self.make
        }
        return self._seats(values)

    def copied(self) -> Worn:
        """Return the same with copies of the buffers, for a run that may write them."""
        return replace(self, buffers={name: v.clone() for name, v in self.buffers.items()})

    def shaken(self) -> Worn:
        """Return other weights: those of the conditions may be equal, as they are at the start."""
        modes = Modes.now(self.device.type)

        def other(make: Callable[[], Weight]) -> Callable[[], Weight]:
            return Kept(lambda: _shaken(make()), modes)

        shaken = {n: other(m) for n, m in self.make.items() if n not in self.buffers}
        return replace(self, make={**self.make, **shaken}, modes=modes)


def _shaken(weight: Weight) -> Weight:
    owned = []
    for value in weight.owned:
        spread = value.std(correction=0) if value.numel() > 1 else value.new_zeros(())
        noise = torch.randn(value.shape, dtype=value.dtype, device="cpu").to(value.device)
        owned.append(value + noise * spread.clamp(min=0.1))
    return replace(weight.with_owned(tuple(owned)), lead=1)


@dataclass
class Examination:
    """What is known of one kind of call after its examination.

    Attributes:
        uses: Which functions meet rows.
        outputs: Of each tensor of the output, whether it has rows.
        plain: Whether all tensors of the output are in a tree, and none in other objects.
        object: What else it returns, but for what says the same for every condition: its class.
        why: Why the target is not to be run on rows; `""` where it is.
    """

    uses: Uses = field(default_factory=Uses)
    outputs: tuple[bool, ...] = ()
    plain: bool = True
    object: str = ""
    why: str = ""


# ---- the run ------------------------------------------------------------------------------------


def run_on(place: Place, seats: Seats, meeting: Meeting, call: RowCall) -> Any:
    """Run a target once on all rows; stand-ins in what it returns become tensors.

    Raises:
        NotRowsError: A use that was not met before, or has no rule.
    """
    if not meeting.uses.always_followed:
        return _without_stand_ins(place(*seats, call.args, call.kwargs), call.rows)
    marked = [t for t in tensors_in(call.args, call.kwargs) if id(t) in call.paired]
    for tensor in marked:
        mark(tensor)
    try:
        with following(meeting):
            output = place(*seats, call.args, call.kwargs)
        return _without_stand_ins(output, call.rows)
    finally:
        for tensor in marked:
            vars(tensor).pop(MARK, None)


def _without_stand_ins(output: Any, rows: Rows) -> Any:
    """Give each row what its condition has, where a target returns what it generates."""

    def real(leaf: Any) -> Any:
        if not isinstance(leaf, RowWise):
            return leaf
        numbers, shape = dense(leaf), leaf.shape
        if shape and shape[0] == rows.size:
            conditions = rows.condition_of_row(numbers.device)
            return numbers[conditions, torch.arange(rows.size, device=numbers.device)]
        return rows.gather(numbers)

    return tree_map(real, output)


# ---- examining ----------------------------------------------------------------------------------


def examine(
    place: Place, worn: Worn, call: RowCall, trace: Trace, keeps: bool = False
) -> Examination:
    """Find out which functions meet rows, and whether the rows of a target do not meet.

    With weights other than the call's: those of all conditions may still be equal. What is close
    to a tie can come out otherwise for many rows than for few, so the verdict takes two runs.

    Args:
        place: Runs the target.
        worn: What it is run with.
        call: The inputs; they are copied.
        trace: The target's attributes, which are put back.
        keeps: Whether the target may keep tensors in its attributes.
    """
    examination = Examination()
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        for seed in (0, 1):
            torch.manual_seed(seed)
            examination = Examination()
            try:
                examination.why = _compared(place, worn.shaken(), call, examination, trace, keeps)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                examination.why = _short(error)
            finally:
                trace.restore()
            if examination.why != _MEET:
                break
    return examination


_MEET = "its rows meet: what it returns for some rows depends on the others"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text if isinstance(error, NotRowsError) else f"{type(error).__name__} ({text})"
    return text if len(text) < 200 else f"{text[:200]} ..."


def _compared(
    place: Place, worn: Worn, call: RowCall, examination: Examination, trace: Trace, keeps: bool
) -> str:
    """Run all rows, and those of two conditions alone; say what differs."""
    touched: set[str] = set()
    meeting = Meeting(call.rows, examination.uses, worn.device)
    args, kwargs = call.copied()
    tensors, buffers = worn.copied().seats(meeting, touched)
    with SameDraws(), following(meeting):
        output = place(tensors, buffers, args, kwargs)
    whole = tensors_in(_without_stand_ins(output, call.rows))
    others = [v for v in tree_leaves(output) if not isinstance(v, (Tensor, *CONSTANT))]
    examination.object = type(others[0]).__name__ if others else ""
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    examination.plain = len(whole) == len(leaves)
    examination.outputs = tuple(isinstance(v, RowWise) or hasattr(v, MARK) for v in leaves)
    for name, value in worn.buffers.items():
        if name not in worn.make and not torch.equal(buffers[name], value):
            return f"it writes its buffer {name!r}, which all conditions share"
    kept = None if keeps else trace.changed(lambda tensor: True)
    if kept is not None:
        return kept
    # Two conditions: a number of all rows together, such as the largest, may come from one of them.
    present = call.rows.present()
    for number in dict.fromkeys((present[-1], present[0])):
        trace.restore()
        args, kwargs = call.copied(partial(rows_of, call.rows, number))
        with SameDraws():
            seats = worn.copied().of_one(number, meeting, touched)
            single = place(*seats, args, kwargs)
        if _constants(single) != _constants(output):
            return "it returns a value that is one for all rows"
        why = _difference(whole, tensors_in(single), call.rows, number)
        if why:
            return why
    return ""


def _constants(output: Any) -> list[Any]:
    """Return what an output has beside tensors that says the same for every condition or not."""
    return [str(leaf) for leaf in tree_leaves(output) if isinstance(leaf, CONSTANT)]


def _difference(whole: list[Tensor], alone: list[Tensor], rows: Rows, number: int) -> str:
    """Say in what the rows of one condition differ from those of the condition alone."""
    if len(whole) != len(alone):
        return f"it returns {len(whole)} tensors for all rows and {len(alone)} for some"
    for ours, theirs in zip(whole, alone, strict=True):
        try:
            part = rows_of(rows, number, ours) if ours.ndim else ours
        except NotRowsError:
            part = ours
        if part.shape != theirs.shape and not part.is_floating_point() and part.ndim == 2:
            length = min(part.shape[1], theirs.shape[1])  # tokens: other rows may go on for longer
            part, theirs = part[:, :length], theirs[:, :length]
        if part.shape != theirs.shape:
            part = ours
        if part.shape != theirs.shape:
            return f"it returns shape {tuple(ours.shape)} for all rows"
        if not _close(part, theirs):
            return _MEET
    return ""


def _close(ours: Tensor, theirs: Tensor) -> bool:
    if not ours.is_floating_point() and not ours.is_complex():
        return torch.equal(ours, theirs)
    largest = max(1.0, float(theirs.abs().nan_to_num().max())) if theirs.numel() else 1.0
    tolerance = _TOLERANCE.get(ours.dtype, 0.06) * largest
    return torch.allclose(ours, theirs, rtol=0.0, atol=tolerance, equal_nan=True)


# ---- the strategy -------------------------------------------------------------------------------


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

    def finished(self, output: Any, flags: tuple[bool, ...]) -> Any:
        """Return the output with the batch in front, and everything that is shared in it too."""
        if not self.batch:
            return output
        has_rows = iter(flags)

        def one(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
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
    if call.by is None and runner.skeleton.on_gradients:  # of all rows together, without a word
        raise NotAtOnceError(f"it uses {min(runner.skeleton.on_gradients)}")
    if runner.skeleton.statistics_now():
        raise NotAtOnceError("it updates running statistics: its rows meet")
    worn = worn_of(runner, weights, shared, buffers, call.index)
    why = "it has no inputs with rows"
    place = partial(runner.skeleton.call, method=call.method)
    for laid in laid_out(call, worn.num):
        examination = examined(runner, place, worn, laid.call, (laid.how, kind_of(runner, call)))
        why = examination.why
        if not why and laid.batch and examination.object:
            why = f"it returns a {examination.object}"
        if not why:
            together = brought_together(laid.call) if examination.plain else laid.call
            meeting = Meeting(together.rows, examination.uses, worn.device)
            with watched(runner, call) if laid.batch else nullcontext():
                output = run_on(place, worn.seats(meeting), meeting, together)
            if examination.plain:
                output = put_back(output, laid.call.rows, examination.outputs)
            return laid.finished(output, examination.outputs)
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


def worn_of(
    runner: Runner,
    weights: Mapping[str, Weight | Tensor],
    shared: Mapping[str, Tensor],
    buffers: Buffers,
    index: Tensor | None,
) -> Worn:
    """Return what the target is run with, from weights or tensors `(B, ...)` by name.

    Args:
        runner: What runs.
        weights: What is generated.
        shared: What all conditions share.
        buffers: The target's buffers.
        index: Which condition each of the batch has, where conditions repeat.
    """
    spec, make, shapes = runner.skeleton.spec, {}, {}
    num, device = 0, torch.device("cpu")
    for name, value in weights.items():
        shapes[name] = torch.Size(spec[name].shape)
        if isinstance(value, Tensor):
            value = Dense(name, shapes[name], len(value), value)
        make[name], num, device = _given(value), value.num, value.owned[0].device
    dtypes = dict(runner.dtypes)
    for name, value in buffers.rows.items():
        shapes[name], dtypes[name] = value.shape[1:], value.dtype
        if index is not None:  # equal ids have equal rows
            value = value[:1].repeat(num, *(1,) * (value.ndim - 1)).index_copy_(0, index, value)
        make[name] = _given(Dense(name, value.shape[1:], len(value), value))
    worn_buffers = {**buffers.shared, **{name: value[0] for name, value in buffers.rows.items()}}
    return Worn(num, make, shapes, dtypes, shared, worn_buffers, device, Modes.now(device.type))


def _given(weight: Weight) -> Callable[[], Weight]:
    return lambda: weight


def laid_out(call: Call, num_made: int) -> Iterator[Laid]:
    """Yield the ways in which a call can be laid out as rows."""
    if call.by is not None:
        yield Laid("rows", RowCall(call.by, call.inputs, call.kwargs, call.paired), (), 0)
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
        yield Laid("flattened", RowCall(rows, args, kwargs, paired), (num, -1), num)
    if places:
        paired = frozenset(id(leaves[i]) for i in places)
        yield Laid("as they are", RowCall(base, call.inputs, call.kwargs, paired), (), num)
