"""Heads as modules: what a head of the plan holds, how it starts, runs and grows."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom._core.plan.plan import Plan
from hyperloom._core.records import Head, Segment, Source, slot_signs
from hyperloom.torch._generate.table import Table, grow_rows, unit_rows

Native = Mapping[str, Tensor]
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a head is run on.

    Attributes:
        features: `(*batch, C, F)`, or `(*batch, F)` without slot embeddings; `None` for a head
            that needs none.
        ids: The conditions' ids `(*batch,)`, if they have any.
        batch: Leading dimensions.
        scales: `(num_pieces, 2)`, scale and shift of each of the plan's pieces; `None` if no head
            has any.
    """

    features: Tensor | None
    ids: Tensor | None
    batch: tuple[int, ...]
    scales: Tensor | None


class HeadModule(nn.Module, ABC):
    """A head of a plan.

    Attributes:
        places: Where tables say what its slots are: for each part of that the rows `(C,)`.
        head: Its record in the plan.
        rows: The pieces of its output, as rows of `plan.pieces`, in order.
        sizes: Numbers of each; a last one without a piece is cut off.
        slots: Slot embeddings, if it has any. A head without them has one slot, and no axis for it.
        ranges: The slots, or rows, that it takes of the head of a whole plan, in one of a part.
    """

    slots: Table | nn.Parameter | None
    places: list[Tensor]
    ranges: Ranges | None = None

    def __init__(self, plan: Plan, index: int) -> None:
        super().__init__()
        self.head: Head = plan.heads[index]
        # Not buffers: they follow from the plan.
        self.places = [torch.tensor(part.rows) for part in self.head.lookups]
        self.rows, self.sizes = plan.sections[index]

    def make_slots(self, num_ids: int | None) -> None:
        """Make the slot embeddings, if the head has any."""
        head = self.head
        self.slots = None
        if head.lookups:
            return
        if head.per_condition:
            assert num_ids is not None
            self.slots = Table(num_ids, head.num_slots, head.embedding)
            self.new_slots(self.slots[0])
        elif head.embedding:
            self.slots = nn.Parameter(torch.empty(head.num_slots, head.embedding))
            self.new_slots(self.slots)

    def new_slots(self, rows: Tensor) -> None:
        """Fill slot embeddings with draws of root mean square 1."""
        with torch.no_grad():
            rows.copy_(unit_rows(rows))

    def slot_embeddings(self, ids: Tensor | None, tables: Any, like: Tensor) -> Tensor:
        """Return `(C, w)`, or `(*batch, C, w)` where each id has its own.

        Args:
            ids: The conditions' ids, if they have any.
            tables: The tables that say what slots are, if there are any.
            like: The conditions' vectors.
        """
        if self.head.lookups:
            every = tables.embeddings(self.head, self.places, like)
        elif isinstance(self.slots, Table):
            assert ids is not None
            every = self.slots.look_up(ids)
        else:
            assert self.slots is not None
            every = self.slots
        return every if self.ranges is None else some(every, self.ranges, -2)

    @abstractmethod
    def numbers(self, seen: Seen) -> Tensor:
        """Run the head: `(*batch, num_slots * slot_size)`, scales and shifts in."""

    @abstractmethod
    def start(self, moment: float, native: Native) -> float:
        """Fill the head's numbers.

        Args:
            moment: Mean square of its features.
            native: The target's own values by name.

        Returns:
            What the scales of its pieces are to be divided by.
        """

    def taken(self, plan: Plan, index: int, ranges: Ranges) -> HeadModule:
        """Return a head of a part of the plan over the numbers of this one.

        Args:
            plan: The part.
            index: The head's place in it.
            ranges: The slots, or without slot embeddings the rows, that it takes of this one.
        """
        kind = _HEADS[self.head.source]
        other: Any = kind.__new__(kind)
        nn.Module.__init__(other)
        other.head, (other.rows, other.sizes) = plan.heads[index], plan.sections[index]
        other.slots, other.places, other.ranges = self.slots, self.places, ranges
        other.take(self)
        return other

    def take(self, whole: Any) -> None:
        """Take the numbers of a part from the head of the whole plan."""

    def grow(self, num: int, native: Native) -> list[nn.Parameter]:
        """Add `num` ids to what is looked up by id; return the new parameters."""
        if isinstance(self.slots, Table):
            return [grow_rows(self.slots, num, self.new_slots)]
        return []


class LinearHead(HeadModule):
    """Maps features to numbers."""

    def __init__(self, plan: Plan, index: int) -> None:
        super().__init__(plan, index)
        features = plan.features(self.head)
        self.weight = nn.Parameter(torch.empty(self.head.slot_size, features))
        self.bias = nn.Parameter(torch.empty(self.head.slot_size))
        # Not a buffer: it follows from the plan, and is not to be left as garbage by to_empty().
        self.known_signs: Tensor | None = None
        if self.head.signs:
            signs = slot_signs(self.head.num_slots, features)
            self.known_signs = torch.from_numpy(signs).to(self.weight.dtype)
        self.make_slots(plan.num_ids)

    def take(self, whole: LinearHead) -> None:
        assert self.ranges is not None
        signs, weight, bias = whole.known_signs, whole.weight, whole.bias
        if self.head.embedding:
            signs = None if signs is None else some(signs, self.ranges, 0)
        else:
            weight, bias = (some(value, self.ranges, 0) for value in (weight, bias))
        self.known_signs, self.weight, self.bias = signs, weight, bias

    @property
    def signs(self) -> Tensor | None:
        """Each slot's signs `(C, F)`, as the weight's numbers are, or `None`."""
        signs, weight = self.known_signs, self.weight
        if signs is None or (signs.device == weight.device and signs.dtype == weight.dtype):
            return signs
        return signs.to(weight)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if not self.weight.is_meta:
            self.known_signs = self.signs
        return self

    def forward(self, features: Tensor) -> Tensor:
        """Map features `(*batch, C, F)` to numbers `(*batch, C, S)`."""
        return F.linear(self.signed(features), self.weight, self.bias)

    def signed(self, features: Tensor) -> Tensor:
        """Return the features `(*batch, C, F)` under each slot's signs."""
        signs = self.signs
        return features if signs is None else features * signs

    def numbers(self, seen: Seen) -> Tensor:
        if not self.head.scaled:
            numbers = self(seen.features)
        else:
            assert seen.scales is not None
            numbers = self._scaled(seen.features, seen.scales)
        return numbers.flatten(-2) if self.head.embedding else numbers

    def _scaled(self, features: Any, scales: Tensor) -> Tensor:
        """Run and give each range of the output its scale and shift.

        It writes in place, so that a large target takes the memory of one copy, not of two:
        range by range where no gradient is taken, else in one pass (written in parts, autograd
        would copy the whole gradient for every part). Such heads have slot embeddings.
        """
        shifted = _any_shift(scales)
        if not torch.is_grad_enabled():
            numbers: Tensor = self(features)
            parts = numbers.flatten(-2).split(self.sizes, -1)
            for row, part in zip(self.rows, parts, strict=False):
                part.mul_(scales[row, 0])
                if shifted:
                    part.add_(scales[row, 1])
            return numbers
        # Before the head runs: on the way these take more memory than in the end.
        spread = [_spread(scales[:, i], self.rows, self.sizes) for i in range(1 + shifted)]
        numbers = self(features)
        scale, *shift = (values.view(numbers.shape[-2:]) for values in spread)
        numbers = numbers.mul_(scale)
        return numbers.add_(shift[0]) if shifted else numbers

    def start(self, moment: float, native: Native) -> float:
        """Give every row its start, for features of mean square `moment`."""
        with torch.no_grad():
            for part in self.head.segments:
                std = part.std / math.sqrt(self.weight.shape[1] * moment)
                uniform(self.weight[part.start : part.stop], std)
                bias = self.bias[part.start : part.stop]
                bias.zero_().add_(_middle(part, native, bias))
        return 1.0


class GivenHead(HeadModule):
    """No weights: the features are the numbers."""

    def __init__(self, plan: Plan, index: int) -> None:
        super().__init__(plan, index)
        self.make_slots(plan.num_ids)

    def numbers(self, seen: Seen) -> Tensor:
        assert seen.features is not None
        flat = seen.features.flatten(-2) if self.head.embedding else seen.features
        if not self.head.scaled:
            return flat
        assert seen.scales is not None
        spread = _spread(seen.scales, self.rows, self.sizes)
        # Not in place, as scales are elsewhere: other heads may see the same features.
        return torch.addcmul(spread[:, 1], flat, spread[:, 0])

    def start(self, moment: float, native: Native) -> float:
        # This head has no weights to hold the features' scale: the scales of the pieces hold it.
        return math.sqrt(moment) if self.head.scaled else 1.0


class TableHead(HeadModule):
    """A learned row of numbers for each condition id."""

    slots = None

    def __init__(self, plan: Plan, index: int) -> None:
        super().__init__(plan, index)
        assert plan.num_ids is not None
        self.table = Table(plan.num_ids, self.head.slot_size)

    def numbers(self, seen: Seen) -> Tensor:
        assert seen.ids is not None
        if self.ranges is None:
            return self.table.look_up(seen.ids)
        return F.embedding(seen.ids, some(self.table.rows(), self.ranges, 1))

    def take(self, whole: TableHead) -> None:
        self.table = whole.table

    def start(self, moment: float, native: Native) -> float:
        self._fill(self.table[0], native)
        return 1.0

    def grow(self, num: int, native: Native) -> list[nn.Parameter]:
        return [grow_rows(self.table, num, lambda rows: self._fill(rows, native))]

    def _fill(self, rows: Tensor, native: Native) -> None:
        """Fill rows of the table, each condition with draws of its own."""
        _fill_rows(self.head, rows, native)


class SharedHead(HeadModule):
    """One learned row of numbers for all conditions."""

    slots = None

    def __init__(self, plan: Plan, index: int) -> None:
        super().__init__(plan, index)
        self.row = nn.Parameter(torch.empty(self.head.slot_size))

    def take(self, whole: SharedHead) -> None:
        assert self.ranges is not None
        self.row = some(whole.row, self.ranges, 0)

    def numbers(self, seen: Seen) -> Tensor:
        # A clone: a view would let what was generated change when the row is trained.
        return self.row.clone().expand(*seen.batch, -1)

    def start(self, moment: float, native: Native) -> float:
        _fill_rows(self.head, self.row, native)
        return 1.0


_HEADS: dict[Source, type[HeadModule]] = {
    Source.FEATURES: LinearHead,
    Source.TABLE: TableHead,
    Source.SHARED: SharedHead,
    Source.GIVEN: GivenHead,
}


def build_head(plan: Plan, index: int) -> HeadModule:
    """Return a head of the plan as a module; its numbers are still to be filled."""
    return _HEADS[plan.heads[index].source](plan, index)


def some(tensor: Tensor, ranges: Ranges, axis: int) -> Tensor:
    """Return ranges of a tensor along an axis, one after the other.

    They are cut in one split: its backward pass is one concatenation.
    """
    size = tensor.shape[axis]
    if ranges == ((0, size),):
        return tensor
    edges = [0, *itertools.chain.from_iterable(ranges), size]
    sizes = [stop - first for first, stop in itertools.pairwise(edges)]
    kept = tensor.split(sizes, axis)[1::2]
    return kept[0] if len(kept) == 1 else torch.cat(kept, axis)


def uniform(values: Tensor, std: float) -> None:
    """Fill in place with uniform draws of mean 0 and standard deviation `std`."""
    bound = math.sqrt(3) * std
    values.uniform_(-bound, bound) if bound else values.zero_()


def _fill_rows(head: Head, rows: Tensor, native: Native) -> None:
    """Fill rows `(*, S)` of learned numbers, mostly with the target's own values."""
    with torch.no_grad():
        for part in head.segments:
            view = rows[..., part.start : part.stop]
            uniform(view, 0.0 if part.native else part.std)
            view += _middle(part, native, view)


def _middle(part: Segment, native: Native, rows: Tensor) -> Tensor | float:
    """Return what rows `(*, size)` start around, each with draws of its own."""
    if part.native is not None:
        return native[part.native].flatten()
    if part.orthogonals is None or rows.is_meta:
        return part.mean
    size = rows.shape[-1]
    normal = torch.randn(rows.numel() // size, size, dtype=torch.float64, device="cpu")
    return torch.from_numpy(part.orthogonals.numbers(normal.numpy())).view(rows.shape).to(rows)


def _spread(values: Tensor, rows: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    """Return each piece's value (or values) for each of its numbers, `(size, ...)`."""
    repeated = values[list(rows)]
    if len(sizes) > len(rows):  # what is cut off
        repeated = torch.cat([repeated, repeated[:1]])
    repeats = torch.tensor(sizes, device=repeated.device)
    return repeated.repeat_interleave(repeats, 0, output_size=sum(sizes))


def _any_shift(scales: Tensor) -> bool:
    """Whether any piece has a shift; where that cannot be read without waiting, yes."""
    if scales.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    try:
        return bool(scales[:, 1].any())
    except RuntimeError:  # a traced value cannot be read
        return True
