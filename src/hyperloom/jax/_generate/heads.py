"""Heads as modules: what a head of the plan holds, how it starts, runs and grows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.plan.plan import Plan
from hyperloom._core.records import Head, Source, slot_signs
from hyperloom.jax._generate.draws import Start
from hyperloom.jax._generate.slots import told
from hyperloom.jax._generate.table import Table
from hyperloom.jax._target.variables import Param, is_traced


@partial(jax.tree_util.register_dataclass, data_fields=["features", "ids"], meta_fields=["batch"])
@dataclass(frozen=True, slots=True)
class Seen:
    """What a head is run on: a pytree.

    Attributes:
        features: `(*batch, C, F)`; `None` for a head that needs none.
        ids: The conditions' ids `(*batch,)`, if they have any.
        batch: Leading dimensions.
    """

    features: Array | None
    ids: Array | None
    batch: tuple[int, ...]


class HeadModule(nnx.Module):
    """A head of a plan, filled with its start (but for what `moment` is needed for).

    Attributes:
        head: Its record in the plan.
        slots: Slot embeddings, if it has any.
    """

    def __init__(self, plan: Plan, index: int, start: Start) -> None:
        head = self.head = plan.heads[index]
        slots: Any = None
        shape = (head.num_slots, head.embedding)
        if head.per_condition:
            assert plan.num_ids is not None
            slots = Table(start.unit_rows((plan.num_ids, *shape)))
        elif head.embedding and not head.lookups:
            slots = nnx.Param(start.unit_rows(shape))
        self.slots = nnx.data(slots)

    def slot_embeddings(self, ids: Array | None, tables: Any, dtype: Any) -> Array:
        """Return `(C, w)`, or `(*batch, C, w)` where each id has its own.

        Args:
            ids: The conditions' ids, if they have any.
            tables: The tables that say what slots are, if there are any.
            dtype: Dtype of the conditions' vectors.
        """
        if self.head.lookups:
            return told(self.head, tables, dtype)
        if isinstance(self.slots, Table):
            assert ids is not None
            return self.slots.look_up(ids)
        return self.slots[...]

    def numbers(self, seen: Seen) -> Array:
        """Run the head: `(*batch, num_slots * slot_size)`, before scales and shifts."""
        raise NotImplementedError

    def start(self, moment: Any, start: Start) -> Any:
        """Fill what depends on the mean square of its features.

        Returns:
            What the scales of its pieces are to be divided by.
        """
        return 1.0

    def grow(self, num: int, start: Start) -> list[Param]:
        """Add `num` ids to what is looked up by id; return the new parameters."""
        if not isinstance(self.slots, Table):
            return []
        shape = (num, *self.slots.blocks[0].shape[1:])
        return [self.slots.grow(start.unit_rows(shape))]


class LinearHead(HeadModule):
    """Maps features to numbers."""

    def __init__(self, plan: Plan, index: int, start: Start) -> None:
        size, features = plan.heads[index].slot_size, plan.features(plan.heads[index])
        self.weight = nnx.Param(start.zeros((size, features)))
        self.bias = nnx.Param(start.zeros((size,)))
        super().__init__(plan, index, start)

    def __call__(self, features: Array) -> Array:
        """Map features `(*batch, C, F)` to numbers `(*batch, C, S)`."""
        return self.signed(features) @ self.weight[...].T + self.bias[...]

    def signed(self, features: Array) -> Array:
        """Return the features `(*batch, C, F)` under each slot's signs."""
        signs = self.signs
        return features if signs is None else features * signs.astype(features.dtype)

    @property
    def signs(self) -> Array | None:
        """Each slot's signs `(C, F)`, or `None`."""
        if not self.head.signs:
            return None
        return jnp.asarray(slot_signs(self.head.num_slots, self.weight.shape[1]))

    def numbers(self, seen: Seen) -> Array:
        assert seen.features is not None
        return _flat(self(seen.features))

    def start(self, moment: Any, start: Start) -> Any:
        """Give every row its start, for features of mean square `moment`."""
        width = self.weight.shape[1]
        rows, biases = [], []
        for part in self.head.segments:
            num = part.stop - part.start
            std = part.std / (width * moment) ** 0.5 if part.std else 0.0
            rows.append(start.uniform((num, width), std))
            middle = start.middle(part, 1)
            biases.append((jnp if is_traced(middle) else np).broadcast_to(middle, (1, num))[0])
        self.weight.set_value(start.join(rows))
        self.bias.set_value(start.join(biases))
        return 1.0


class GivenHead(HeadModule):
    """No weights: the features are the numbers."""

    def numbers(self, seen: Seen) -> Array:
        assert seen.features is not None
        return _flat(seen.features)

    def start(self, moment: Any, start: Start) -> Any:
        # No weights to hold the scale of the features: the pieces' own take it over.
        return moment**0.5 if self.head.scaled else 1.0


class TableHead(HeadModule):
    """A learned row of numbers for each condition id."""

    def __init__(self, plan: Plan, index: int, start: Start) -> None:
        super().__init__(plan, index, start)
        assert plan.num_ids is not None
        self.table = Table(_new_rows(self.head, plan.num_ids, start))

    def numbers(self, seen: Seen) -> Array:
        assert seen.ids is not None
        return self.table.look_up(seen.ids)

    def grow(self, num: int, start: Start) -> list[Param]:
        return [self.table.grow(_new_rows(self.head, num, start))]


class SharedHead(HeadModule):
    """One learned row of numbers for all conditions."""

    def __init__(self, plan: Plan, index: int, start: Start) -> None:
        super().__init__(plan, index, start)
        self.row = nnx.Param(_new_rows(self.head, 1, start).reshape(-1))

    def numbers(self, seen: Seen) -> Array:
        row = self.row[...]
        return jnp.broadcast_to(row, (*seen.batch, *row.shape))


_HEADS: dict[Source, type[HeadModule]] = {
    Source.FEATURES: LinearHead,
    Source.TABLE: TableHead,
    Source.SHARED: SharedHead,
    Source.GIVEN: GivenHead,
}


def build_head(plan: Plan, index: int, start: Start) -> HeadModule:
    """Return a head of the plan as a module; the numbers of a linear one are still to be filled."""
    return _HEADS[plan.heads[index].source](plan, index, start)


def _flat(numbers: Array) -> Array:
    return numbers.reshape(*numbers.shape[:-2], math.prod(numbers.shape[-2:]))


def _new_rows(head: Head, num: int, start: Start) -> Array:
    """Return rows `(num, S)` of learned numbers, each with draws of its own."""
    runs = []
    for part in head.segments:
        shape = (num, part.stop - part.start)
        drawn = start.uniform(shape, 0.0 if part.native else part.std)
        runs.append(drawn + start.middle(part, num))
    return start.join(runs, axis=-1)
