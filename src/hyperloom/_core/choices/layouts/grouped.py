"""Tensors of equal shape share a head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hyperloom._core.choice import Choice
from hyperloom._core.choices.layouts.base import (
    Layout,
    common_std,
    needs_scales,
    refuse_native,
    scale_and_shift,
    whole_piece,
)
from hyperloom._core.errors import a_bool, call_it, message, positive_int
from hyperloom._core.records import Head, Part, Piece, Placement, Segment, Source


@dataclass(frozen=True, repr=False)
class Unit(Choice, open=True):
    """Base class: what a member of a group is."""

    def compile(self, parts: Sequence[Part], first_head: int, layout: Grouped) -> list[Placement]:
        """Group `parts` and place each group in a head."""
        raise TypeError(f"{type(self).__name__} does not define compile()")


@dataclass(frozen=True, repr=False)
class Tensors(Unit):
    """Tensors of equal shape and role form a group."""

    def compile(self, parts: Sequence[Part], first_head: int, layout: Grouped) -> list[Placement]:
        groups: dict[object, list[list[Part]]] = {}
        for part in parts:
            key = (part.shape, part.role, part.start.exact)
            groups.setdefault(key, []).append([part])
        return _place(list(groups.values()), first_head, layout)


@dataclass(frozen=True, repr=False)
class Layers(Unit):
    """Whole layers with tensors of equal names and shapes form a group.

    One run of the head gives a layer's weight and bias together.
    """

    def compile(self, parts: Sequence[Part], first_head: int, layout: Grouped) -> list[Placement]:
        layers: dict[object, list[Part]] = {}
        for part in parts:
            layers.setdefault((part.layer, part.start.exact), []).append(part)
        groups: dict[object, list[list[Part]]] = {}
        for (_, exact), members in layers.items():  # type: ignore[misc]
            key = (exact, *((p.label, p.shape, p.role) for p in members))
            groups.setdefault(key, []).append(members)
        return _place(list(groups.values()), first_head, layout)


@dataclass(frozen=True, repr=False)
class Tiles(Unit):
    """Tensors of unequal but divisible shapes are tiled by one block.

    The block's shape is the greatest common divisor of the members' shapes, axis by axis. A
    tensor joins a group while the block keeps at least `smallest` numbers; members have the same
    role and number of axes, and the same size along all axes but those of inputs and outputs
    (kernels).

    Args:
        smallest: Numbers that a block must keep. Default 64.

    Raises:
        ValueError: `smallest` below 1.
    """

    smallest: int = 64

    def __post_init__(self) -> None:
        positive_int("Tiles(smallest=)", self.smallest)

    def compile(self, parts: Sequence[Part], first_head: int, layout: Grouped) -> list[Placement]:
        groups: list[tuple[object, tuple[int, ...], list[Part]]] = []
        for part in parts:
            key = (len(part.shape), part.extent, part.role, part.start.exact)
            for i, (other, tile, members) in enumerate(groups):
                joint = tuple(math.gcd(a, b) for a, b in zip(tile, part.shape, strict=False))
                if key == other and (part.shape == tile or math.prod(joint) >= self.smallest):
                    groups[i] = (key, joint, [*members, part])
                    break
            else:
                groups.append((key, part.shape, [part]))
        return [
            _place_tiles(members, tile, first_head + i, layout)
            for i, (_, tile, members) in enumerate(groups)
        ]


@dataclass(frozen=True, repr=False)
class Grouped(Layout):
    """Tensors or layers of equal shape share a head and differ by an embedding.

    The structure of the target stays visible to the generator: a run of the head gives one
    whole tensor, layer or tile. A fixed scale for each tensor keeps its own initial variance.

    Args:
        embedding: Width of the members' embeddings. Default 32.
        unit: What a member is: `Tensors()` (default), `Layers()` or `Tiles(smallest)`.
        per_condition: Embeddings of its own for each condition id. Default False.
        signs: Each member sees the features under fixed random signs of its own, so that members
            start uncorrelated, as in `Chunked`. Default True.

    Raises:
        ValueError: `embedding` below 1.
        TypeError: `unit` is not one of the three.
    """

    embedding: int = 32
    unit: Unit = Tensors()
    per_condition: bool = False
    signs: bool = True

    def __post_init__(self) -> None:
        positive_int("Grouped(embedding=)", self.embedding)
        a_bool("Grouped(per_condition=)", self.per_condition)
        a_bool("Grouped(signs=)", self.signs)
        if not isinstance(self.unit, Unit):
            got = self.unit if isinstance(self.unit, type) else repr(self.unit)
            wanted = "Tensors(), Layers() or Tiles(smallest)"
            raise TypeError(message("Grouped(unit=)", got, wanted, call_it(self.unit, Unit)))

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        refuse_native(parts, self)
        return self.unit.compile(parts, first_head, self)


def _place(groups: list[list[list[Part]]], first_head: int, layout: Grouped) -> list[Placement]:
    """Give each group a head; a member is a list of parts that one slot holds in a row."""
    return [_place_group(group, first_head + i, layout) for i, group in enumerate(groups)]


def _place_group(members: list[list[Part]], head: int, layout: Grouped) -> Placement:
    size = sum(math.prod(part.shape) for part in members[0])
    segments, pieces, row = [], [], 0
    scaled = any(needs_scales(column) for column in zip(*members, strict=True))
    # Column by column: the parts that stand at the same rows of their slots start alike.
    for column in zip(*members, strict=True):
        common = common_std(column)
        stop = row + math.prod(column[0].shape)
        segments.append(Segment(row, stop, 0.0, common))
        for slot, part in enumerate(column):
            scale, shift = scale_and_shift(part, common, column)
            pieces.append((part, whole_piece(head, slot * size + row, part, scale, shift)))
        row = stop
    return Placement(_head(layout, len(members), size, scaled, segments), tuple(pieces))


def _place_tiles(parts: list[Part], tile: tuple[int, ...], head: int, layout: Grouped) -> Placement:
    size, common = math.prod(tile), common_std(parts)
    pieces, slot = [], 0
    for part in parts:
        grid = tuple(n // t for n, t in zip(part.shape, tile, strict=True))
        scale, shift = scale_and_shift(part, common, parts)
        pieces.append((part, Piece(head, slot * size, tile, grid, size, scale, shift)))
        slot += math.prod(grid)
    rows = [Segment(0, size, 0.0, common)]
    return Placement(_head(layout, slot, size, needs_scales(parts), rows), tuple(pieces))


def _head(
    layout: Grouped, num_slots: int, size: int, scaled: bool, segments: list[Segment]
) -> Head:
    return Head(
        "grouped",
        Source.FEATURES,
        num_slots,
        size,
        num_slots * size,
        layout.embedding,
        layout.per_condition,
        scaled,
        layout.signs,
        tuple(segments),
    )
