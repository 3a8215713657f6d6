"""The records that a plan is made of: heads, their slots and rows, parts, starts and roles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Source(StrEnum):
    """Where a head's numbers come from."""

    FEATURES = "features"  # a linear map of the trunk's features
    TABLE = "table"  # a learned row for each condition id
    SHARED = "shared"  # one learned row for all conditions
    GIVEN = "given"  # the trunk's features themselves


@dataclass(frozen=True, slots=True)
class Orthogonals:
    """Draws that are orthogonal matrices.

    Attributes:
        shape: Shape of the tensor.
        out_axes: Its axes of outputs: the matrix is `(outputs, all else)`.
        gain: What all singular values of the matrix are.
    """

    shape: tuple[int, ...]
    out_axes: tuple[int, ...]
    gain: float

    def numbers(self, normal: np.ndarray) -> np.ndarray:
        """Turn normal draws `(num, size)` into `num` orthogonal matrices, flat as the tensor is.

        They are Haar's distribution: the Q of a QR decomposition whose R has a positive diagonal
        (Mezzadri, "How to Generate Random Matrices from the Classical Compact Groups", 2007).
        """
        others = tuple(sorted(set(range(len(self.shape))) - set(self.out_axes)))
        order = (*self.out_axes, *others)
        sizes = tuple(self.shape[axis] for axis in order)
        rows = math.prod(sizes[: len(self.out_axes)])
        matrices = normal.reshape(len(normal), rows, normal.shape[1] // rows)
        wide = rows < matrices.shape[2]
        q, r = np.linalg.qr(matrices.swapaxes(1, 2) if wide else matrices)
        q = q * np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None]
        q = (q.swapaxes(1, 2) if wide else q).reshape(-1, *sizes)
        back = np.argsort(order) + 1
        return self.gain * q.transpose(0, *back).reshape(normal.shape)


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of a head's output rows that starts out alike.

    Attributes:
        start: First row.
        stop: One past the last row.
        mean: Mean of the numbers that the rows give at the start.
        std: Their standard deviation for features of root mean square 1.
        native: Name of the tensor whose own values the rows give at the start, or `None`.
        orthogonals: What the rows give at the start instead of a mean, or `None`.
    """

    start: int
    stop: int
    mean: float
    std: float
    native: str | None = None
    orthogonals: Orthogonals | None = None


@dataclass(frozen=True, slots=True)
class SlotTable:
    """Embeddings of what slots are, a row for each value that occurs.

    Attributes:
        name: Unique name; what the rows tell of a slot.
        values: What each row stands for.
        width: Width of a row.
        numbers: What each row is computed from, numbers of equal count; empty for learned rows.
    """

    name: str
    values: tuple[str, ...]
    width: int
    numbers: tuple[tuple[float, ...], ...] = ()

    @property
    def learned(self) -> bool:
        """Whether its rows are learned."""
        return not self.numbers

    def rows(self) -> np.ndarray:
        """Return the rows `(num, width)` of a table that is not learned, of root mean square 1.

        Sines and cosines of the numbers, in turns, with frequencies from 1 down to 1e-4.
        """
        numbers = np.asarray(self.numbers)
        count = -(-self.width // (2 * numbers.shape[1]))
        frequencies = 1e4 ** (-np.arange(count) / count)
        angles = numbers[:, None, :] * frequencies[:, None]
        waves = math.sqrt(2) * np.stack([np.sin(angles), np.cos(angles)], axis=2)
        return waves.reshape(len(numbers), -1)[:, : self.width]


@dataclass(frozen=True, slots=True)
class Lookup:
    """A part of the embeddings of a head's slots: rows of a table.

    Attributes:
        table: The table; heads that name the same one share it.
        rows: The row of each slot.
    """

    table: SlotTable
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """One generator: `num_slots` runs of it give `(num_slots, slot_size)` numbers a condition.

    Attributes:
        name: Unique name; the first part of its parameters' names.
        source: Where its numbers come from.
        num_slots: How often it is run for one condition (`C` chunks, or group members).
        slot_size: Numbers that one run gives (`S`).
        num_used: Numbers of the `num_slots * slot_size` that tensors are made of; the rest, at
            the end of the last slot, is cut.
        embedding: Width of the slot embedding that the trunk sees beside the condition; 0 for
            none.
        per_condition: Whether each condition id has slot embeddings of its own.
        scaled: Whether its pieces have scales and shifts. They are measured on a template, so
            a backend keeps them beside the learned numbers, in the tensor `scales` with a row
            `(scale, shift)` for each piece of the plan, and saves them with those.
        signs: Whether each slot sees the features under fixed signs of its own (`slot_signs`).
        segments: How its rows start out; together they cover `0 .. slot_size`.
        lookups: What its slots' embeddings are made of, where tables say what each slot is; empty
            for a learned embedding of each slot.
        summed: Whether the parts are added up, divided by the root of their number; else they
            stand side by side.
    """

    name: str
    source: Source
    num_slots: int
    slot_size: int
    num_used: int
    embedding: int
    per_condition: bool
    scaled: bool
    signs: bool
    segments: tuple[Segment, ...]
    lookups: tuple[Lookup, ...] = ()
    summed: bool = True

    @property
    def linear(self) -> bool:
        """Whether its numbers are a linear map of features: rows times features, and a bias."""
        return self.source is Source.FEATURES

    @property
    def given(self) -> bool:
        """Whether its numbers are the features themselves."""
        return self.source is Source.GIVEN

    @property
    def table(self) -> bool:
        """Whether its numbers are a learned row for each condition id."""
        return self.source is Source.TABLE

    @property
    def shared(self) -> bool:
        """Whether its numbers are learned, and the same for all conditions."""
        return self.source is Source.SHARED

    @property
    def needs_features(self) -> bool:
        """Whether the head sees the trunk's features."""
        return self.linear or self.given

    @property
    def needs_moment(self) -> bool:
        """Whether its start depends on how large the trunk's features are."""
        return self.linear or (self.given and self.scaled)

    @property
    def needs_ids(self) -> bool:
        """Whether the head looks something up by condition id."""
        return self.table or self.per_condition

    def num_parameters(self, features: int, num_ids: int) -> int:
        """Learned numbers, for `features` trunk features and `num_ids` condition ids."""
        for_each_row = {
            Source.FEATURES: features + 1,
            Source.TABLE: num_ids,
            Source.SHARED: 1,
            Source.GIVEN: 0,
        }
        slots = self.num_slots * self.embedding * (num_ids if self.per_condition else 1)
        slots = 0 if self.lookups else slots  # the plan counts tables, which heads share
        return self.slot_size * for_each_row[self.source] + slots

    def drawn(self, features: int, num_ids: int | None) -> str:
        """Return it as a line of the plan's drawing; arguments as of `num_parameters`."""
        size = self.slot_size
        run = {
            Source.FEATURES: f"Linear({features} -> {size})",
            Source.TABLE: f"{num_ids} ids x {size} learned numbers, no generator",
            Source.SHARED: f"{size} learned numbers for all conditions",
            Source.GIVEN: "the features are the numbers",
        }[self.source]
        if self.num_slots == 1 and not self.embedding:
            return f"{self.name}: {run}"
        cut = self.num_slots * size - self.num_used
        last = f", last cut by {cut}" if cut else ""
        embeddings = ", embeddings for each id" if self.per_condition else ""
        if self.lookups:
            joined = " + " if self.summed else ", "
            embeddings = f", embeddings of {joined.join(part.table.name for part in self.lookups)}"
        return f"{self.name}: {self.num_slots} x {run}{last}{embeddings}"


def slot_signs(num_slots: int, features: int) -> np.ndarray:
    """Return fixed random signs `(num_slots, features)` of +1 and -1, the same everywhere.

    The features of a condition's slots have much in common (the condition's part; the positive
    mean that a ReLU leaves). Rows of the head would carry that over to numbers S apart, and sums
    over such numbers come out too large, layer after layer: measured, E[x²] after 8 ReLU layers
    of width 128 is 160 to 1e4 with chunks of a row, where 1 is meant. Under signs of its own
    each slot is uncorrelated with the others, at the cost of one product per feature.
    """
    draws = np.random.RandomState(0).randint(0, 2, size=(num_slots, features))
    return (2 * draws - 1).astype(np.int8)


@dataclass(frozen=True, slots=True)
class Start:
    """How a generated part starts out.

    Attributes:
        mean: Its mean.
        std: Its standard deviation, for a condition whose features have root mean square 1.
        native: Start as a copy of the target's own values instead (bias-hyperinit).
        orthogonals: Start as an orthogonal matrix instead.
        exact: The mean must hold exactly, so `std` is 0 and the part may not share a head with
            parts that start at random.
        measured: Mean and standard deviation are those of a template, so they differ from one
            template of the same shapes to the next.
    """

    mean: float = 0.0
    std: float = 1.0
    native: bool = False
    exact: bool = False
    measured: bool = False
    orthogonals: Orthogonals | None = None

    @property
    def number_by_number(self) -> bool:
        """Whether each number has a start of its own, which rows that tensors share cannot give."""
        return self.native or self.orthogonals is not None


@dataclass(frozen=True, slots=True)
class Part:
    """One generated array: a tensor, or a factor of one.

    Attributes:
        tensor: Name of the target's tensor.
        layer: Path of the module that owns it.
        label: Its name below the layer, and which factor it is; equal layers have equal labels.
        role: Role of the tensor.
        shape: Shape of the part.
        start: How it starts out.
        whole: Whether it has the tensor's own numbers, rather than those of a factor.
        extent: Its sizes along the axes of a convolution's kernel.
        rank_axis: Its axis of ranks, where it is a factor of a low-rank product.
    """

    tensor: str
    layer: str
    label: str
    role: Role
    shape: tuple[int, ...]
    start: Start
    whole: bool = True
    extent: tuple[int, ...] = ()
    rank_axis: int | None = None


@dataclass(frozen=True, slots=True)
class Bank:
    """Learned arrays that several tensors combine.

    Attributes:
        shape: `(num, *shape of the tensors)`.
        std: Standard deviation of its numbers at the start.
    """

    shape: tuple[int, ...]
    std: float


class Role(StrEnum):
    """What a tensor does in its layer; initialisation and grouping depend on it."""

    WEIGHT = "weight"
    BIAS = "bias"
    NORM_SCALE = "norm scale"
    NORM_SHIFT = "norm shift"
    EMBEDDING = "embedding"
