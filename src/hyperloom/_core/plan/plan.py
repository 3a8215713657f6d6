"""The plan: which numbers become which weights, and how large everything is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from html import escape

from hyperloom._core.choices.conditions import Condition
from hyperloom._core.choices.forms import Form, Whole
from hyperloom._core.choices.structure import Plain, Structure
from hyperloom._core.choices.trunks import Trunk
from hyperloom._core.errors import positive_int
from hyperloom._core.pieces import Piece
from hyperloom._core.records import Bank, Head, SlotTable
from hyperloom._core.tables import human
from hyperloom._core.target.spec import TargetSpec

NO_PIECE = -1


@dataclass(frozen=True)
class Entry:
    """How one tensor is made: a form, and a piece of a head for each of its parts.

    Attributes:
        tensor: Name of the target's tensor.
        form: What is generated for it.
        pieces: Where its parts stand, in the form's order.
        bank: Index of the bank that its form combines, or `None`.
    """

    tensor: str
    form: Form
    pieces: tuple[Piece, ...]
    bank: int | None = None


@dataclass(frozen=True, repr=False)
class Plan:
    """All that a backend needs to generate a target's tensors: integers, floats, names.

    Frozen, hashable and printable; made by `compile_plan`. Sizes and memory are known from it
    before anything is allocated.

    Attributes:
        spec: The target.
        condition: What the weights depend on.
        trunk: How features are computed from it.
        heads: The generators.
        entries: One for each tensor that is generated, in the target's order.
        banks: Learned arrays that several tensors combine.
    """

    spec: TargetSpec
    condition: Condition
    trunk: Trunk
    heads: tuple[Head, ...]
    entries: tuple[Entry, ...]
    banks: tuple[Bank, ...] = ()

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """Names of the tensors that stay the target's own."""
        generated = {entry.tensor for entry in self.entries}
        return tuple(t.name for t in self.spec if t.name not in generated)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces, entry by entry; the rows of the tensor `scales` are in this order."""
        return tuple(piece for entry in self.entries for piece in entry.pieces)

    @cached_property
    def rows_by_name(self) -> dict[str, tuple[Entry, range]]:
        """For each tensor its entry and where its pieces are in `pieces`."""
        row, rows_of_name = 0, {}
        for entry in self.entries:
            rows_of_name[entry.tensor] = entry, range(row, row + len(entry.pieces))
            row += len(entry.pieces)
        return rows_of_name

    @cached_property
    def structures(self) -> dict[str, Structure]:
        """How each generated tensor follows from its parts."""
        return {e.tensor: e.form.structure(self.spec[e.tensor]) for e in self.entries}

    @cached_property
    def as_generated(self) -> tuple[str, ...]:
        """Names of the tensors in order, if each is its part as it is; else empty."""
        plain = all(type(structure) is Plain for structure in self.structures.values())
        return tuple(self.structures) if plain else ()

    @cached_property
    def sections(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        """How each head's flat output is cut: rows of `pieces` in order, and sizes with the rest.

        The sizes sum to `num_slots * slot_size`; the last one is what is cut off, if anything is.
        Where a part of a plan has numbers between its pieces, the row is `NO_PIECE`.
        """
        cuts_of_heads = []
        for index, head in enumerate(self.heads):
            order = [row for row, piece in enumerate(self.pieces) if piece.head == index]
            order.sort(key=lambda row: self.pieces[row].start)
            rows, sizes = list[int](), list[int]()
            for row in order:
                piece, done = self.pieces[row], sum(sizes)
                if piece.start > done:
                    rows.append(NO_PIECE)
                    sizes.append(piece.start - done)
                rows.append(row)
                sizes.append(piece.span)
            rest = head.num_slots * head.slot_size - sum(sizes)
            cuts_of_heads.append((tuple(rows), tuple([*sizes, rest] if rest else sizes)))
        return tuple(cuts_of_heads)

    @cached_property
    def block_shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """For each piece its shape where it is one whole block, `None` where it is tiled or cut."""
        return tuple(piece.tile if piece.contiguous else None for piece in self.pieces)

    @cached_property
    def row_ranges(self) -> tuple[tuple[int, int, int] | None, ...]:
        """For each piece the rows of a linear head that give it: its slot, the first, how many.

        `None` where a part is not, in order, what one run of a linear head gives.
        """
        ranges = []
        for piece in self.pieces:
            head = self.heads[piece.head]
            slot, first = divmod(piece.start, head.slot_size)
            in_one_slot = piece.count == 1 and first + piece.span <= head.slot_size
            ranges.append((slot, first, piece.span) if head.linear and in_one_slot else None)
        return tuple(ranges)

    @cached_property
    def sums(self) -> frozenset[str]:
        """Names of the tensors that are a sum of a head's rows, with their base added at most."""
        return frozenset(
            name
            for name, (entry, rows) in self.rows_by_name.items()
            if self.structures[name].one_part
            and entry.pieces[0].shape == self.spec[name].shape
            and self.row_ranges[rows[0]] is not None
        )

    @cached_property
    def constants(self) -> frozenset[str]:
        """Names of the tensors that are learned, but the same for all conditions."""
        shared = {i for i, head in enumerate(self.heads) if head.shared}
        entries = [e for e in self.entries if all(piece.head in shared for piece in e.pieces)]
        return frozenset(entry.tensor for entry in entries)

    @cached_property
    def shared(self) -> frozenset[str]:
        """Names of the tensors that are learned as they are, the same for all conditions."""
        return frozenset(name for name in self.constants if self.structures[name] == Plain())

    @cached_property
    def row_cuts(self) -> tuple[dict[tuple[int, int], int] | None, ...]:
        """How each head's rows are cut so that every piece has rows of its own.

        For each head a map from (first row, rows) to the place among the cuts, which cover all
        rows in order; `None` where pieces overlap in their rows or spread over several slots.
        """
        return tuple(self._row_cuts(index) for index in range(len(self.heads)))

    def _row_cuts(self, index: int) -> dict[tuple[int, int], int] | None:
        size = self.heads[index].slot_size
        pieces_of_head = [piece for piece in self.pieces if piece.head == index]
        ranges = sorted({(p.start % size, p.span) for p in pieces_of_head})
        cuts: dict[tuple[int, int], int] = {}
        row = 0
        for start, numel in ranges:
            if start != row:
                return None
            cuts[start, numel] = len(cuts)
            row = start + numel
        return cuts if row == size else None

    @cached_property
    def has_scales(self) -> bool:
        """Whether any head's pieces have scales and shifts."""
        return any(head.scaled for head in self.heads)

    @cached_property
    def trunk_needs_ids(self) -> bool:
        """Whether the trunk is told the ids (norms by condition)."""
        return self.trunk.needs_ids

    @cached_property
    def slot_tables(self) -> tuple[SlotTable, ...]:
        """The tables that say what slots are, each once."""
        return tuple(dict.fromkeys(part.table for head in self.heads for part in head.lookups))

    @cached_property
    def trunk_over_slots(self) -> bool:
        """Whether the trunk gets all slots at once, and the condition's context."""
        return self.trunk.over_slots

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Widths of the slot embeddings in use; there is one trunk for each, in this order."""
        widths_in_use = {h.embedding for h in self.heads if h.needs_features}
        return tuple(sorted(widths_in_use))

    def fill_caches(self) -> Plan:
        """Compute every cached property now, and return this plan.

        The first access of a `cached_property` takes a lock on Python 3.11, which no compiler of
        a framework traces.
        """
        for name, value in vars(Plan).items():
            if isinstance(value, cached_property):
                getattr(self, name)
        _ = self.spec[self.spec.tensors[0].name]
        return self

    def features(self, head: Head) -> int:
        """Width `F` of the features that `head` maps."""
        return self.out_width(head.embedding)

    def out_width(self, embedding: int) -> int:
        """Width `F` of the features for slot embeddings of width `embedding`."""
        return self.trunk.out_width(self.condition.width + embedding)

    def trunk_index(self, head: Head) -> int:
        """Which of the trunks computes the features of `head`."""
        return self.widths.index(head.embedding)

    @cached_property
    def trunk_heads(self) -> tuple[tuple[int, ...], ...]:
        """For each trunk the heads whose features it computes, in the order of their slots."""
        heads = [(i, h.embedding, h.needs_features) for i, h in enumerate(self.heads)]
        return tuple(
            tuple(i for i, embedding, needed in heads if needed and embedding == width)
            for width in self.widths
        )

    @cached_property
    def has_bases(self) -> bool:
        """Whether any form changes a tensor of the target's own."""
        return any(entry.form.has_base for entry in self.entries)

    @property
    def num_ids(self) -> int | None:
        """Ids that the condition knows, `None` when it has none."""
        return self.condition.num_ids

    @property
    def num_target_parameters(self) -> int:
        """Numbers in the target, tied tensors once."""
        return self.spec.num_parameters

    @property
    def num_generated(self) -> int:
        """Numbers `P` that are generated for one condition."""
        return sum(piece.numel for piece in self.pieces)

    @property
    def num_parameters(self) -> int:
        """Learned numbers: condition, trunks, heads, slot embeddings, tables, trained bases."""
        width, context = self.condition.width, self.condition.context_width
        trunks = (self.trunk.num_parameters(width + w, context) for w in self.widths)
        heads = (h.num_parameters(self.features(h), self.num_ids or 0) for h in self.heads)
        bases = (self.spec[e.tensor].numel for e in self.entries if e.form.trains_base)
        banks = (math.prod(bank.shape) for bank in self.banks)
        tables = (len(t.values) * t.width for t in self.slot_tables if t.learned)
        return self.condition.num_parameters + sum((*trunks, *heads, *bases, *banks, *tables))

    @property
    def compression(self) -> float:
        """Learned numbers for each number of one target network; below 1, the generator is smaller.

        With ids, `num_ids` separate networks would be 1 for each id.
        """
        return self.num_parameters / self.num_target_parameters

    def output_bytes(self, num_conditions: int = 1, itemsize: int = 4) -> int:
        """Bytes of the tensors generated for `num_conditions`, dense."""
        positive_int("num_conditions", num_conditions, least=0)
        positive_int("itemsize", itemsize)
        numel = sum(self.spec[entry.tensor].numel for entry in self.entries)
        return num_conditions * numel * itemsize

    def parameter_bytes(self, itemsize: int = 4) -> int:
        """Bytes of the learned numbers."""
        positive_int("itemsize", itemsize)
        return self.num_parameters * itemsize

    def __repr__(self) -> str:
        return draw_plan(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture, and the tree of `print` below it."""
        from hyperloom._core.plan.picture import draw  # it draws plans

        text = f"<details><summary>{escape(self.spec.name)}</summary><pre>{escape(str(self))}</pre>"
        return f"{draw(self)}{text}</details>"

    def _repr_svg_(self) -> str:
        from hyperloom._core.plan.picture import draw

        return draw(self)


_MOST_ROWS = 12


def draw_plan(plan: Plan) -> str:
    """Draw the plan as a small tree, one line for each part and each tensor."""
    lines = [
        f"{plan.spec.name}: {human(plan.num_target_parameters)} parameters in {len(plan.spec)}"
        f" tensors, {human(plan.num_generated)} generated for each condition",
        f"├─ condition  {plan.condition} -> {_draw_encoded(plan.condition)}",
    ]
    for i, w in enumerate(plan.widths):
        lines.append(f"├─ trunk      {plan.trunk}: {_draw_seen(plan, i)} -> ({plan.out_width(w)},)")
    for i in range(len(plan.heads)):
        lines.append(f"├─ head       {draw_head(plan, i)}")
        members = [(e, p) for e in plan.entries for p in e.pieces if p.head == i]
        shown = [f"│    {_draw_piece(plan, e, p)}" for e, p in members]
        lines += _cut(shown, "│    ")
    if plan.kept:
        noun = "tensor stays" if len(plan.kept) == 1 else "tensors stay"
        lines.append(f"├─ kept       {len(plan.kept)} {noun} the target's own")
        lines += _cut([f"│    {_draw_kept(plan, name)}" for name in plan.kept], "│    ")
    size = (
        f"{human(plan.num_parameters)} parameters ({human(plan.parameter_bytes(), 'B')} in float32)"
    )
    lines.append(f"└─ learned    {size}, {plan.compression:.3g} x the target")
    return "\n".join(lines)


def draw_head(plan: Plan, index: int) -> str:
    """Return a head as a line of the plan's drawing, with what is cut from its blocks."""
    head = plan.heads[index]
    text = head.drawn(plan.features(head), plan.num_ids)
    cut = sum(piece.span - piece.numel for piece in plan.pieces if piece.head == index)
    share = 100 * cut / max(1, head.num_slots * head.slot_size)
    return f"{text}, {share:.3g} % of its numbers cut" if cut else text


def _draw_kept(plan: Plan, name: str) -> str:
    tensor = plan.spec[name]
    frozen = ", frozen in the target" if tensor.frozen else ""
    return f"{name} {shape_text(tensor.shape)}{frozen}"


def _draw_encoded(condition: Condition) -> str:
    """Draw what a condition becomes: a vector, a context `(L, dim)`, or both."""
    vector, context = f"({condition.width},)", f"(L, {condition.context_width})"
    if not condition.context_width:
        return vector
    return f"{vector} and {context}" if condition.width else context


def _draw_seen(plan: Plan, index: int) -> str:
    """Draw what one of the trunks sees: one slot after the other, or all of them at once."""
    width, embedding = plan.condition.width, plan.widths[index]
    seen = f"({width} + {embedding} slot embedding,)" if embedding else f"({width},)"
    if not plan.trunk.over_slots:
        return seen
    num = sum(plan.heads[i].num_slots for i in plan.trunk_heads[index])
    context = plan.condition.context_width
    return f"{num} x {seen}" + (f", context (L, {context})" if context else "")


def _draw_piece(plan: Plan, entry: Entry, piece: Piece) -> str:
    spec = plan.spec[entry.tensor]
    text = f"{entry.tensor} {shape_text(spec.shape)}"
    if len(entry.pieces) > 1 or piece.shape != spec.shape:
        text += f" from {shape_text(piece.shape)}"
    if sum(other.shape == piece.shape for other in entry.pieces) > 1:
        text += f" (part {entry.pieces.index(piece) + 1})"
    count, scale, shift = piece.count, piece.scale, piece.shift
    if not piece.contiguous:
        tiles = f"{count} tiles " if count > 1 else ""
        text += f" {'cut from' if piece.cut else '='} {tiles}{shape_text(piece.tile)}"
    if scale != 1.0:
        text += f" x {scale:.3g}"
    if shift != 0.0:
        text += f" + {shift:.3g}"
    if entry.form != Whole():
        text += f", {entry.form}"
    if spec.aliases:
        text += f", tied to {', '.join(spec.aliases)}"
    return text


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape as it is drawn: 32x64."""
    return "x".join(map(str, shape)) if shape else "scalar"


def _cut(lines: list[str], indent: str) -> list[str]:
    if len(lines) <= _MOST_ROWS:
        return lines
    return [*lines[: _MOST_ROWS - 1], f"{indent}... and {len(lines) - _MOST_ROWS + 1} more"]
