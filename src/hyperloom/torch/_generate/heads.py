"""Heads built as modules, filled as the plan says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom._core.choices.layouts import Head, Segment, Source, slot_signs
from hyperloom.torch._generate.table import Table, unit_rows


class SlotHead(nn.Module):
    """What the heads that read a trunk share: they own the slot embeddings.

    A head without slot embeddings has one slot, and no axis for it.
    """

    slots: Table | nn.Parameter | None

    def make_slots(self, head: Head, num_ids: int | None) -> None:
        """Make the slot embeddings, if the head has any."""
        self.slots = None
        if head.per_condition:
            assert num_ids is not None
            self.slots = Table(num_ids, head.num_slots, head.embedding)
            self.new_ids(self.slots[0])
        elif head.embedding:
            self.slots = nn.Parameter(torch.empty(head.num_slots, head.embedding))
            self.new_ids(self.slots)

    def new_ids(self, rows: Tensor) -> None:
        """Fill slot embeddings with draws of root mean square 1."""
        with torch.no_grad():
            rows.copy_(unit_rows(rows))

    def slot_embeddings(self, ids: Tensor | None) -> Tensor:
        """Return `(C, w)`, or `(*batch, C, w)` where each id has its own."""
        if isinstance(self.slots, Table):
            assert ids is not None
            return self.slots.look_up(ids)
        assert self.slots is not None
        return self.slots


class GivenHead(SlotHead):
    """No weights: the features `(*batch, C, S)` are the numbers."""

    def __init__(self, head: Head, num_ids: int | None) -> None:
        super().__init__()
        self.make_slots(head, num_ids)


class LinearHead(SlotHead):
    """Maps features `(*batch, C, F)` to numbers `(*batch, C, S)`."""

    signs: Tensor | None

    def __init__(self, head: Head, features: int, num_ids: int | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(head.slot_size, features))
        self.bias = nn.Parameter(torch.empty(head.slot_size))
        signs = torch.from_numpy(slot_signs(head.num_slots, features)) if head.signs else None
        self.register_buffer("signs", None if signs is None else signs.float(), persistent=False)
        self.make_slots(head, num_ids)

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(self.signed(features), self.weight, self.bias)

    def signed(self, features: Tensor) -> Tensor:
        """Return the features `(*batch, C, F)` under each slot's signs."""
        signs = self._buffers["signs"]
        return features if signs is None else features * signs

    def fill(self, head: Head, moment: float, native: Mapping[str, Tensor]) -> None:
        """Give every row its start, for features of mean square `moment`."""
        with torch.no_grad():
            for part in head.segments:
                std = part.std / math.sqrt(self.weight.shape[1] * moment)
                uniform(self.weight[part.start : part.stop], std)
                self.bias[part.start : part.stop] = _mean(part, native)


class TableHead(nn.Module):
    """A learned row of numbers for each condition id."""

    def __init__(self, head: Head, num_ids: int | None) -> None:
        super().__init__()
        assert num_ids is not None
        self.table = Table(num_ids, head.slot_size)

    def fill(self, head: Head, rows: Tensor, native: Mapping[str, Tensor]) -> None:
        """Fill rows of the table, each condition with draws of its own."""
        with torch.no_grad():
            for part in head.segments:
                view = rows[:, part.start : part.stop]
                uniform(view, 0.0 if part.native else part.std)
                view += _mean(part, native)


class SharedHead(nn.Module):
    """One learned row of numbers for all conditions."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.empty(head.slot_size))

    def fill(self, head: Head, native: Mapping[str, Tensor]) -> None:
        """Fill the row, mostly with the target's own values."""
        with torch.no_grad():
            for part in head.segments:
                view = self.row[part.start : part.stop]
                uniform(view, 0.0 if part.native else part.std)
                view += _mean(part, native)


def build_head(head: Head, features: Callable[[Head], int], num_ids: int | None) -> nn.Module:
    """Return the head as a module; its numbers are still to be filled."""
    if head.source is Source.TABLE:
        return TableHead(head, num_ids)
    if head.source is Source.SHARED:
        return SharedHead(head)
    if head.source is Source.GIVEN:
        return GivenHead(head, num_ids)
    return LinearHead(head, features(head), num_ids)


def uniform(values: Tensor, std: float) -> None:
    """Fill in place with uniform draws of mean 0 and standard deviation `std`."""
    bound = math.sqrt(3) * std
    values.uniform_(-bound, bound) if bound else values.zero_()


def _mean(part: Segment, native: Mapping[str, Tensor]) -> Tensor | float:
    return part.mean if part.native is None else native[part.native].flatten()
