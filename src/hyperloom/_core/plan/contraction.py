"""Which generated tensors a layer can be evaluated with from their parts, by the plan alone."""

from __future__ import annotations

import math
from collections.abc import Callable

from hyperloom._core.choices.forms import Delta, Whole
from hyperloom._core.choices.layouts import Piece, Source
from hyperloom._core.plan.cost import Layer, choose
from hyperloom._core.plan.plan import Entry, Plan


def in_one_slot(plan: Plan, piece: Piece) -> bool:
    """Whether a part's numbers come, in order, from one run of its head."""
    size = plan.heads[piece.head].slot_size
    return piece.count == 1 and piece.start % size + piece.numel <= size


def is_constant(plan: Plan, entry: Entry) -> bool:
    """Whether a tensor is learned, but the same for all conditions."""
    return {plan.heads[piece.head].source for piece in entry.pieces} == {Source.SHARED}


def is_shared(plan: Plan, entry: Entry) -> bool:
    """Whether a tensor is learned as it is, the same for all conditions."""
    return is_constant(plan, entry) and isinstance(entry.form, Whole)


def layer_of(plan: Plan, entry: Entry, num: int, rows: int, backward: bool = True) -> Layer | None:
    """Return the sizes of a matrix or kernel that a linear head gives, if it is one."""
    tensor = plan.spec[entry.tensor]
    head = plan.heads[entry.pieces[0].head]
    whole = isinstance(entry.form, (Whole, Delta)) and in_one_slot(plan, entry.pieces[0])
    if len(tensor.shape) < 2 or head.source is not Source.FEATURES or not whole:
        return None
    # A list: a compiler that traces this knows no generators.
    fan_out = math.prod([tensor.shape[axis] for axis in tensor.out_axes or (0,)])
    fan_in = math.prod(tensor.shape) // max(1, fan_out)
    return Layer(num, rows, plan.features(head), fan_in, fan_out, fan_in, backward)


def contracts(
    plan: Plan,
    num: int,
    rows: int,
    itemsize: int,
    device: str,
    *,
    backward: bool = True,
    choose: Callable[[Layer, int, str], str] = choose,
) -> bool:
    """Whether any layer is cheaper from its parts than from dense weights made in one go."""
    for entry in plan.entries:
        layer = layer_of(plan, entry, num, rows, backward)
        if layer is not None and choose(layer, itemsize, device) != "dense":
            return True
        if len(plan.spec[entry.tensor].shape) >= 2 and not isinstance(entry.form, (Whole, Delta)):
            return True
    return False
