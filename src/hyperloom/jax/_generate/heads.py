"""Heads built as modules, filled as the plan says."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.choices.layouts import Head, Source, slot_signs
from hyperloom.jax._generate.draws import Start
from hyperloom.jax._generate.table import Table


class SlotHead(nnx.Module):
    """What the heads that read a trunk share: they own the slot embeddings."""

    def make_slots(self, head: Head, num_ids: int | None, start: Start) -> None:
        """Make the slot embeddings, if the head has any."""
        slots: Any = None
        shape = (head.num_slots, head.embedding)
        if head.per_condition:
            assert num_ids is not None
            slots = Table(start.unit_rows((num_ids, *shape)))
        elif head.embedding:
            slots = nnx.Param(start.unit_rows(shape))
        self.slots = nnx.data(slots)

    def slot_embeddings(self, ids: Array | None) -> Array:
        """Return `(C, w)`, or `(*batch, C, w)` where each id has its own."""
        if isinstance(self.slots, Table):
            assert ids is not None
            return self.slots.look_up(ids)
        return self.slots[...]


class GivenHead(SlotHead):
    """No weights: the features `(*batch, C, S)` are the numbers."""

    def __init__(self, head: Head, num_ids: int | None, start: Start) -> None:
        self.make_slots(head, num_ids, start)


class LinearHead(SlotHead):
    """Maps features `(*batch, C, F)` to numbers `(*batch, C, S)`."""

    def __init__(self, head: Head, features: int, num_ids: int | None, start: Start) -> None:
        self.weight = nnx.Param(start.zeros((head.slot_size, features)))
        self.bias = nnx.Param(start.zeros((head.slot_size,)))
        self.sign_shape = (head.num_slots, features) if head.signs else None
        self.make_slots(head, num_ids, start)

    def __call__(self, features: Array) -> Array:
        return self.signed(features) @ self.weight[...].T + self.bias[...]

    def signed(self, features: Array) -> Array:
        """Return the features `(*batch, C, F)` under each slot's signs."""
        signs = self.signs
        return features if signs is None else features * signs.astype(features.dtype)

    @property
    def signs(self) -> Array | None:
        """Each slot's signs `(C, F)`, or `None`."""
        return None if self.sign_shape is None else jnp.asarray(slot_signs(*self.sign_shape))

    def fill(self, head: Head, moment: float, start: Start) -> None:
        """Give every row its start, for features of mean square `moment`."""
        width = self.weight.shape[1]
        rows, biases = [], []
        for part in head.segments:
            num = part.stop - part.start
            rows.append(start.uniform((num, width), part.std / math.sqrt(width * moment)))
            biases.append(np.broadcast_to(start.mean(part), (num,)))
        self.weight.set_value(start.array(np.concatenate(rows)))
        self.bias.set_value(start.array(np.concatenate(biases)))


class TableHead(nnx.Module):
    """A learned row of numbers for each condition id."""

    def __init__(self, head: Head, num_ids: int | None, start: Start) -> None:
        assert num_ids is not None
        self.table = Table(self.new_rows(head, num_ids, start))

    @staticmethod
    def new_rows(head: Head, num: int, start: Start) -> Array:
        """Return rows of the table, each condition with draws of its own."""
        made = []
        for part in head.segments:
            shape = (num, part.stop - part.start)
            made.append(start.uniform(shape, 0.0 if part.native else part.std) + start.mean(part))
        return start.array(np.concatenate(made, axis=-1))


class SharedHead(nnx.Module):
    """One learned row of numbers for all conditions."""

    def __init__(self, head: Head, start: Start) -> None:
        self.row = nnx.Param(TableHead.new_rows(head, 1, start).reshape(-1))


def build_head(head: Head, features: int, num_ids: int | None, start: Start) -> nnx.Module:
    """Return the head as a module; the numbers of a linear one are still to be filled."""
    if head.source is Source.TABLE:
        return TableHead(head, num_ids, start)
    if head.source is Source.SHARED:
        return SharedHead(head, start)
    if head.source is Source.GIVEN:
        return GivenHead(head, num_ids, start)
    return LinearHead(head, features, num_ids, start)
