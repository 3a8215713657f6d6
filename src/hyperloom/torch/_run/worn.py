"""What a target on rows is run with, and the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from hyperloom.torch._rules.held import Kept
from hyperloom.torch._rules.rows.following import following, mark
from hyperloom.torch._rules.rows.standin import MARK, Meeting, RowWise, dense
from hyperloom.torch._rules.standin import Generated, Modes
from hyperloom.torch._run.row_calls import RowCall, tensors_in
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._weights.rows import Rows
from hyperloom.torch._weights.weights import Dense, Weight

Seats = tuple[dict[str, Tensor], dict[str, Tensor]]
# Runs the target: (tensors by name, buffers by name, inputs, keyword inputs) -> what it returns.
Place = Callable[[Mapping[str, Tensor], dict[str, Tensor], tuple[Any, ...], dict[str, Any]], Any]


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
        """Return tensors and buffers by name, stand-ins for those that conditions differ in."""
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
            name: _alone(self.make[name](), number, self.dtypes[name])
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


def _alone(weight: Weight, number: int, dtype: torch.dtype) -> Tensor:
    """Return the weight of one condition, formed unless its base is packed."""
    if weight.packed:
        owned = tuple(part[number] for part in weight.owned)
        return Generated.of(weight.with_owned(owned), dtype)
    return weight.dense()[number].to(dtype)


def _shaken(weight: Weight) -> Weight:
    owned = []
    for value in weight.owned:
        spread = value.std(correction=0) if value.numel() > 1 else value.new_zeros(())
        noise = torch.randn(value.shape, dtype=value.dtype, device="cpu").to(value.device)
        owned.append(value + noise * spread.clamp(min=0.1))
    return replace(weight.with_owned(tuple(owned)), lead=1, record=None)


def run_on(place: Place, seats: Seats, meeting: Meeting, call: RowCall) -> Any:
    """Run a target once on all rows; stand-ins in what it returns become tensors.

    Raises:
        NotRowsError: A use that was not met before, or has no rule.
    """
    if not meeting.uses.always_followed:
        return without_stand_ins(place(*seats, call.args, call.kwargs), call.rows)
    marked = [t for t in tensors_in(call.args, call.kwargs) if id(t) in call.paired]
    for tensor in marked:
        mark(tensor)
    try:
        with following(meeting):
            output = place(*seats, call.args, call.kwargs)
        return without_stand_ins(output, call.rows)
    finally:
        for tensor in marked:
            vars(tensor).pop(MARK, None)


def without_stand_ins(output: Any, rows: Rows) -> Any:
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
