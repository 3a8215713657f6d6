"""Which generated tensors a layer can be evaluated with from their parts, by the plan alone."""

from __future__ import annotations

import math
from collections.abc import Callable

from hyperloom._core.plan.cost import Layer, choose, is_forced
from hyperloom._core.plan.plan import Entry, Plan


def layer_of(plan: Plan, entry: Entry, num: int, rows: int, backward: bool = True) -> Layer | None:
    """Return the sizes of a matrix or kernel that a linear head gives, if it is one."""
    tensor = plan.spec[entry.tensor]
    if len(tensor.shape) < 2 or entry.tensor not in plan.sums:
        return None
    # A list: a compiler that traces this knows no generators.
    fan_out = math.prod([tensor.shape[axis] for axis in tensor.out_axes or (0,)])
    fan_in = math.prod(tensor.shape) // max(1, fan_out)
    terms = plan.features(plan.heads[entry.pieces[0].head])
    return Layer(num, rows, terms, fan_in, fan_out, fan_in, backward)


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
    if is_forced():  # every layer is asked, the dense ones too
        return True
    for entry in plan.entries:
        layer = layer_of(plan, entry, num, rows, backward)
        if layer is not None and choose(layer, itemsize, device) != "dense":
            return True
    return has_factors(plan)


def has_factors(plan: Plan) -> bool:
    """Whether any matrix or kernel is generated in a form that is applied for less than formed."""
    return any(_in_factors(plan, entry) for entry in plan.entries)


def _in_factors(plan: Plan, entry: Entry) -> bool:
    shape, structure = plan.spec[entry.tensor].shape, plan.structures[entry.tensor]
    one_part = structure.one_part and entry.pieces[0].shape == shape
    return len(shape) >= 2 and structure.factored and not one_part


def made_bytes(plan: Plan, itemsize: int) -> int:
    """Return the bytes that are made for one condition: factors as they are, the rest dense."""
    return itemsize * sum(
        sum(piece.numel for piece in entry.pieces)
        if _in_factors(plan, entry)
        else plan.spec[entry.tensor].numel
        for entry in plan.entries
    )
