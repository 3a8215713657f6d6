"""Examining a target: which functions meet rows, and whether its rows meet each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hyperloom.torch._rules.rows.following import SameDraws, following
from hyperloom.torch._rules.rows.standin import MARK, Meeting, RowWise, Uses
from hyperloom.torch._run.joined import CONSTANT
from hyperloom.torch._run.row_calls import RowCall, objects_in, rows_of, tensors_in
from hyperloom.torch._run.worn import Place, Worn, without_stand_ins
from hyperloom.torch._target.tensors import equal
from hyperloom.torch._target.trace import Trace, inner_of
from hyperloom.torch._weights.rows import NotRowsError, Rows

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


@dataclass
class Examination:
    """What is known of one kind of call after its examination.

    Attributes:
        uses: Which functions meet rows.
        outputs: Of each tensor of the output, whether it has rows.
        plain: Whether all tensors of the output are in a tree, and none in other objects.
        objects: The same of the tensors in each object of the output, such as a cache.
        object: The class of one that cannot be cut into one for each condition; `""` without.
        leaf: Whether it returns a tensor that it has gradients taken for.
        why: Why the target is not to be run on rows; `""` where it is.
    """

    uses: Uses = field(default_factory=Uses)
    outputs: tuple[bool, ...] = ()
    plain: bool = True
    objects: tuple[tuple[bool, ...], ...] = ()
    object: str = ""
    leaf: bool = False
    why: str = ""

    def of_batch(self) -> str:
        """Say why rows are not to stand for the conditions of a batch; `""` where they are."""
        if self.leaf:
            return "it returns a tensor that gradients are taken for"
        return f"it returns a {self.object}" if self.object else ""


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
    examination, grad = Examination(), torch.is_grad_enabled()
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        for seed in (0, 1):
            torch.manual_seed(seed)
            examination = Examination()
            try:
                shaken = worn.shaken()
                examination.why = _compared(place, shaken, call, examination, trace, keeps, grad)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever the target raises: its rows are not run so
                examination.why = _short(error)
            finally:
                trace.restore()
            if examination.why not in (_MEET, _ORDER):
                break
    return examination


_MEET = "its rows meet: what it returns for some rows depends on the others"
_ORDER = "it changes the order of its rows, or what it returns depends on the order"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text if isinstance(error, NotRowsError) else f"{type(error).__name__} ({text})"
    return text if len(text) < 200 else f"{text[:200]} ..."


def _compared(
    place: Place,
    worn: Worn,
    call: RowCall,
    examination: Examination,
    trace: Trace,
    keeps: bool,
    grad: bool,
) -> str:
    """Run all rows, and those of two conditions alone; say what differs."""
    touched: set[str] = set()
    meeting = Meeting(call.rows, examination.uses, worn.device)
    meeting.grad = grad  # the runs that follow may take gradients
    args, kwargs = call.copied()
    tensors, buffers = worn.copied().seats(meeting, touched)
    with SameDraws(), following(meeting):
        output = place(tensors, buffers, args, kwargs)
    whole = tensors_in(without_stand_ins(output, call.rows))
    objects = objects_in(output)
    examination.objects = tuple(
        tuple(hasattr(value, MARK) for value in tensors_in(value)) for value in objects
    )
    whole_ones = [value for value in objects if not _can_be_cut(value)]
    examination.object = type(whole_ones[0]).__name__ if whole_ones else ""
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    given = {id(leaf) for leaf in tree_leaves((args, kwargs))}
    examination.leaf = any(t.requires_grad and id(t) not in given for t in leaves)
    examination.plain = len(whole) == len(leaves)
    examination.outputs = tuple(isinstance(v, RowWise) or hasattr(v, MARK) for v in leaves)
    for name, value in worn.buffers.items():
        if name not in worn.make and not equal(buffers[name], value):
            return f"it writes its buffer {name!r}, which all conditions share"
    kept = None if keeps else trace.changed(lambda tensor: True)
    if kept is not None:
        return kept
    # Two conditions: a number of all rows together, such as the largest, may come from one of them.
    present = call.rows.present()
    for number in dict.fromkeys((*present[-1:], *present[:1])):
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
    trace.restore()
    return _reordered(place, worn, call, whole)


def _reordered(place: Place, worn: Worn, call: RowCall, whole: list[Tensor]) -> str:
    """Run all rows in another order; say what differs beside the order.

    A target may sort its rows by their values. The rows of one call may be sorted already.
    """
    if call.rows.size < 2:
        return ""
    order = torch.randperm(call.rows.size)
    conditions = call.rows.condition_of_row(worn.device)[order.to(worn.device)]
    rows = Rows(call.rows.num, call.rows.counts, conditions)

    def ordered(tensor: Tensor) -> Tensor:
        blocks = tensor.unflatten(0, (rows.size, len(tensor) // rows.size))
        return blocks[order.to(tensor.device)].flatten(0, 1)

    meeting = Meeting(rows, Uses(), worn.device)
    args, kwargs = call.copied(ordered)
    with SameDraws(), following(meeting):
        output = place(*worn.copied().seats(meeting), args, kwargs)
    again = tensors_in(without_stand_ins(output, rows))
    if [value.shape for value in again] != [value.shape for value in whole]:
        return _ORDER
    for ours, theirs in zip(whole, again, strict=True):
        has_rows = bool(ours.ndim and len(ours) and len(ours) % rows.size == 0)
        same = has_rows and _close(ordered(ours), theirs)
        if not same and ((hasattr(ours, MARK) and has_rows) or not _close(ours, theirs)):
            return _ORDER
    return ""


def _can_be_cut(value: Any) -> bool:
    """Whether an object is one that holds tensors, to be copied with the rows of a condition."""
    if callable(value) or isinstance(value, np.ndarray):
        return False
    tensors = tensors_in(value)
    return bool(tensors) and not any(isinstance(tensor, RowWise) for tensor in tensors)


def _constants(output: Any) -> list[Any]:
    """Return what an output has beside tensors that says the same for every condition or not.

    In objects such as caches too, all the way down.
    """
    found: list[Any] = []
    waiting, seen = [output], set[int]()
    while waiting:
        for leaf in tree_leaves(waiting.pop()):
            if isinstance(leaf, (*CONSTANT, np.ndarray, np.generic)):
                shape = getattr(leaf, "shape", ())
                found.append(f"{type(leaf).__name__} {shape} {leaf}")
            elif not isinstance(leaf, (Tensor, nn.Module, type)) and id(leaf) not in seen:
                seen.add(id(leaf))
                found.append(type(leaf).__name__)
                waiting += inner_of(leaf)
    return found


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
