"""Tensors of equal shape share a head."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hyperloom._core.choice import Choice
from hyperloom._core.choices.layouts.base import (
    Layout,
    common_std,
    needs_scales,
    refuse_number_by_number,
    scale_and_shift,
    whole_piece,
)
from hyperloom._core.choices.layouts.told import told_apart
from hyperloom._core.choices.slot_parts import (
    SlotEmbedding,
    embedding_width,
    number_and_type,
    refuse_by_id,
)
from hyperloom._core.errors import a_bool, call_it, message, positive_int
from hyperloom._core.pieces import Piece, Placement
from hyperloom._core.records import Head, Part, Segment, Source


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
        return _by_layer(parts, first_head, layout, lambda layer: "")


@dataclass(frozen=True, repr=False)
class Modules(Unit):
    """Whole layers that are modules of one type form a group: a head for each type.

    Types are told by the paths of modules without their numbers, as `OfModule` tells them: of
    `layers.0.query`, `layers.1.query` and `layers.0.value`, the first two are of one. As with
    `Layers()`, one run of the head gives all of a layer's tensors; those that start at exactly
    zero, as a factor of each low-rank change does, have a head of their own.
    """

    def compile(self, parts: Sequence[Part], first_head: int, layout: Grouped) -> list[Placement]:
        return _by_layer(parts, first_head, layout, lambda layer: number_and_type(layer)[1])


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
class Largest(Unit):
    """Tensors of unequal shapes are cut from blocks of the largest size.

    The block's shape is the largest of the members' sizes, axis by axis, but no more than `limit`
    along an axis. A smaller tensor is the first numbers of a block along each axis; a larger one
    is tiled, and its last tiles are cut. Members have the same role and number of axes, and the
    same size along all axes but those of inputs and outputs (kernels). What is cut is generated
    for nothing: the plan prints its share. Each tensor starts with the variance of its own fans.

    It is how one head serves any architecture. Knyazev, Hwang and Lacoste-Julien, "Can We Scale
    Transformers to Predict Parameters of Diverse ImageNet Models?" (GHN-3), ICML 2023, cut from
    one block, and repeat it for tensors that are larger, where here each tile has a slot.

    Args:
        limit: Most numbers of a block along an axis of inputs or outputs. Default `None`: no limit.

    Raises:
        ValueError: `limit` below 1.
    """

    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None:
            positive_int("Largest(limit=)", self.limit)

    def compile(self, parts: Sequence[Part], first_head: int, layout: Grouped) -> list[Placement]:
        groups: dict[object, list[Part]] = {}
        for part in parts:
            key = (len(part.shape), part.extent, part.role, part.start.exact)
            groups.setdefault(key, []).append(part)
        return [
            _place_tiles(members, self._block(members), first_head + i, layout)
            for i, members in enumerate(groups.values())
        ]

    def _block(self, parts: list[Part]) -> tuple[int, ...]:
        """Return the shape of the block; axes along which all agree, as of kernels, are whole."""
        sizes = zip(*(part.shape for part in parts), strict=True)
        kernel = len(parts[0].shape) - len(parts[0].extent)
        return tuple(
            max(along) if self.limit is None or axis >= kernel else min(max(along), self.limit)
            for axis, along in enumerate(sizes)
        )


@dataclass(frozen=True, repr=False)
class Ranks(Unit):
    """One rank of a low-rank change is a member: a column of `U`, or a row of `V`.

    For tensors in the form `LoRA`, `DoRA` or `LowRank`. Modules of one type (as `Modules` tells
    them) and of equal shapes share two heads, one for each factor: an adapter of rank 8 has 8
    slots in each. Which rank a slot is, `OfBlock()` tells, and `PerModule(rank=)`. Two slots told
    alike in both heads, by embeddings without `OfRole()`, have the same features in a trunk that
    sees one slot at a time. Parts that are no factor, as DoRA's lengths, are whole members.

    Charakorn et al., "Doc-to-LoRA", 2026: a token for each layer, type of module and rank.
    """

    def compile(self, parts: Sequence[Part], first_head: int, layout: Grouped) -> list[Placement]:
        groups: dict[object, list[Part]] = {}
        for part in parts:
            kind = number_and_type(part.layer)[1]
            key = (kind, part.label, part.shape, part.role, part.start.exact)
            groups.setdefault(key, []).append(part)
        return [
            _place_tiles(members, _without_ranks(members[0]), first_head + i, layout)
            for i, members in enumerate(groups.values())
        ]


def _without_ranks(part: Part) -> tuple[int, ...]:
    """Return the shape of one rank of a factor; of another part its shape."""
    return tuple(1 if axis == part.rank_axis else size for axis, size in enumerate(part.shape))


@dataclass(frozen=True, repr=False)
class Grouped(Layout):
    """Tensors or layers of equal shape share a head and differ by an embedding.

    The structure of the target stays visible to the generator: a run of the head gives one
    whole tensor, layer or tile. A fixed scale for each tensor keeps its own initial variance.

    Args:
        embedding: Width of the members' embeddings, default 32; or a `SlotSum` or `PerModule`,
            which say what each member is.
        unit: What a member is: `Tensors()` (default), `Layers()`, `Modules()`, `Ranks()`,
            `Tiles(smallest)` or `Largest(limit)`.
        per_condition: Embeddings of its own for each condition id. Default False.
        signs: Each member sees the features under fixed random signs of its own, so that members
            start uncorrelated, as in `Chunked`. Default True.

    Raises:
        ValueError: `embedding` below 1, `per_condition` with embeddings that say what a member is,
            or two members of a head of which they say the same.
        TypeError: `unit` is not one of these.
    """

    embedding: int | SlotEmbedding = 32
    unit: Unit = Tensors()
    per_condition: bool = False
    signs: bool = True

    def __post_init__(self) -> None:
        embedding_width("Grouped(embedding=)", self.embedding)
        a_bool("Grouped(per_condition=)", self.per_condition)
        refuse_by_id("Grouped", self.embedding, self.per_condition)
        a_bool("Grouped(signs=)", self.signs)
        if not isinstance(self.unit, Unit):
            got = self.unit if isinstance(self.unit, type) else repr(self.unit)
            wanted = "Tensors(), Layers(), Modules(), Ranks(), Tiles(smallest) or Largest(limit)"
            raise TypeError(message("Grouped(unit=)", got, wanted, call_it(self.unit, Unit)))

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        refuse_number_by_number(parts, self)
        return told_apart(self, self.embedding, self.unit.compile(parts, first_head, self))


def _by_layer(
    parts: Sequence[Part], first_head: int, layout: Grouped, kind: Callable[[str], str]
) -> list[Placement]:
    """Place whole layers, those of one kind and of equal shapes in one head."""
    layers: dict[tuple[str, bool], list[Part]] = {}
    for part in parts:
        layers.setdefault((part.layer, part.start.exact), []).append(part)
    groups: dict[object, list[list[Part]]] = {}
    for (layer, exact), members in layers.items():
        key = (kind(layer), exact, *((p.label, p.shape, p.role) for p in members))
        groups.setdefault(key, []).append(members)
    return _place(list(groups.values()), first_head, layout)


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
        grid = tuple(-(-n // t) for n, t in zip(part.shape, tile, strict=True))
        scale, shift = scale_and_shift(part, common, parts)
        piece = Piece(head, slot * size, tile, grid, size, scale, shift)
        cut = () if piece.shape == part.shape else part.shape
        pieces.append((part, replace(piece, cut=cut)))
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
        embedding_width("Grouped(embedding=)", layout.embedding),
        layout.per_condition,
        scaled,
        layout.signs,
        tuple(segments),
    )
