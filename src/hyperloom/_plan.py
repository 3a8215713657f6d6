"""spec + condition + trunk + layout + form + init -> Plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from hyperloom import _drawing
from hyperloom._condition import Condition
from hyperloom._errors import call_it, message
from hyperloom._form import Bank, Form, Part, Start, Whole
from hyperloom._init import Init, Native
from hyperloom._layout import Full, Head, Layout, Piece, Source
from hyperloom._mix import resolve
from hyperloom._spec import Role, TargetSpec
from hyperloom._trunk import Linear, Trunk


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
        made = {entry.tensor for entry in self.entries}
        return tuple(t.name for t in self.spec if t.name not in made)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces, entry by entry; the rows of the tensor `scales` are in this order."""
        return tuple(piece for entry in self.entries for piece in entry.pieces)

    @cached_property
    def sections(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        """How each head's flat output is cut: rows of `pieces` in order, and sizes with the rest.

        The sizes sum to `num_slots * slot_size`; the last one is what is cut off, if anything is.
        """
        made = []
        for index, head in enumerate(self.heads):
            rows = [row for row, piece in enumerate(self.pieces) if piece.head == index]
            rows.sort(key=lambda row: self.pieces[row].start)
            sizes = [self.pieces[row].numel for row in rows]
            rest = head.num_slots * head.slot_size - sum(sizes)
            made.append((tuple(rows), tuple([*sizes, rest] if rest else sizes)))
        return tuple(made)

    @cached_property
    def block_shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """For each piece its shape where it is one block, `None` where it is tiled."""
        return tuple(piece.tile if piece.count == 1 else None for piece in self.pieces)

    @cached_property
    def row_cuts(self) -> tuple[dict[tuple[int, int], int] | None, ...]:
        """How each head's rows are cut so that every piece has rows of its own.

        For each head a map from (first row, rows) to the place among the cuts, which cover all
        rows in order; `None` where pieces overlap in their rows or spread over several slots.
        """
        return tuple(self._row_cuts(index) for index in range(len(self.heads)))

    def _row_cuts(self, index: int) -> dict[tuple[int, int], int] | None:
        size = self.heads[index].slot_size
        own = [piece for piece in self.pieces if piece.head == index]
        ranges = sorted({(p.start % size, p.numel) for p in own})
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
    def widths(self) -> tuple[int, ...]:
        """Widths of the slot embeddings in use; there is one trunk for each, in this order."""
        found = {h.embedding for h in self.heads if h.needs_features}
        return tuple(sorted(found))

    def settled(self) -> Plan:
        """Compute now what is computed once, and return the plan.

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
        return self.trunk.out_width(self.condition.width + head.embedding)

    def trunk_index(self, head: Head) -> int:
        """Which of the trunks computes the features of `head`."""
        return self.widths.index(head.embedding)

    @cached_property
    def trunk_heads(self) -> tuple[tuple[int, ...], ...]:
        """For each trunk the heads whose features it computes, in the order of their slots."""
        heads = [(i, h.embedding, h.needs_features) for i, h in enumerate(self.heads)]
        return tuple(
            tuple(i for i, own, needed in heads if needed and own == width) for width in self.widths
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
        trunks = (self.trunk.num_parameters(self.condition.width + w) for w in self.widths)
        heads = (h.num_parameters(self.features(h), self.num_ids or 0) for h in self.heads)
        bases = (self.spec[e.tensor].numel for e in self.entries if e.form.trains_base)
        banks = (math.prod(bank.shape) for bank in self.banks)
        return self.condition.num_parameters + sum((*trunks, *heads, *bases, *banks))

    @property
    def compression(self) -> float:
        """Learned numbers for each number of one target network; below 1, the generator is smaller.

        With ids, `num_ids` separate networks would be 1 for each id.
        """
        return self.num_parameters / self.num_target_parameters

    def output_bytes(self, num_conditions: int = 1, itemsize: int = 4) -> int:
        """Bytes of the tensors generated for `num_conditions`, dense."""
        numel = sum(self.spec[entry.tensor].numel for entry in self.entries)
        return num_conditions * numel * itemsize

    def parameter_bytes(self, itemsize: int = 4) -> int:
        """Bytes of the learned numbers."""
        return self.num_parameters * itemsize

    def __repr__(self) -> str:
        return _drawing.draw_plan(self)


def compile_plan(
    spec: TargetSpec,
    condition: Condition,
    trunk: Trunk | None = None,
    layout: Layout | Mapping[str, Layout] | None = None,
    form: Form | Mapping[str, Form] | None = None,
    init: Init | None = None,
) -> Plan:
    """Compile a target and the three choices into a plan.

    Args:
        spec: The target's tensors.
        condition: What the weights depend on.
        trunk: How features are computed; `None` for a head that is linear in the condition.
        layout: A layout for all tensors, or a dict from name patterns to layouts, first match
            wins; what no pattern names keeps the target's own tensor. Default `Full()`.
        form: What is generated, likewise; what no pattern names is generated whole.
        init: How the generated tensors start out. Default `Native()`.

    Raises:
        TypeError: An argument of another class, or a complex or integer tensor to generate.
        ValueError: A pattern that names nothing, two choices for one tensor, a layout that
            needs ids with a condition that has none, or a tensor whose start is not finite.
    """
    for argument, value, kind in (
        ("condition", condition, Condition),
        ("trunk", Linear() if trunk is None else trunk, Trunk),
        ("init", Native() if init is None else init, Init),
    ):
        if not isinstance(value, kind):
            got = value if isinstance(value, type) else repr(value)
            raise TypeError(message(argument, got, _WANTED[argument], call_it(value, kind)))
    layouts = resolve("layout", Full() if layout is None else layout, Layout, spec)
    forms = resolve("form", Whole() if form is None else form, Form, spec)
    _refuse_forms_without_layout(form, forms, layouts)
    parts = _parts(spec, layouts, forms, init or Native())
    heads, pieces = _place(layouts, parts)
    if condition.num_ids is None and any(head.needs_ids for head in heads):
        names = sorted({h.name for h in heads if h.needs_ids})
        raise ValueError(
            message(
                "layout",
                f"{', '.join(names)} heads that look up a condition id",
                f"a condition with one set of ids, not {condition}",
                "Use Embedding(num, dim) as the condition, or as one part of Concat.",
            )
        )
    _refuse_empty_features(condition, heads)
    if condition.num_ids is None and trunk is not None and trunk.needs_ids:
        got, wanted = f"{trunk} with the condition {condition}", "a condition with ids"
        raise ValueError(message("trunk", got, wanted, "Use Embedding(num, dim)."))
    trunk = trunk or Linear()
    _refuse_other_width(heads, trunk, condition.width)
    banks, bank_of = _banks(spec, forms, parts, init or Native())
    entries = tuple(
        Entry(
            name,
            forms.get(name, Whole()),
            tuple(pieces[part] for part in parts[name]),
            bank_of.get(name),
        )
        for name in parts
    )
    return Plan(spec, condition, trunk, heads, entries, banks)


_WANTED = {
    "condition": "a condition object (Embedding, Vector, Noise, Concat)",
    "trunk": "a trunk object (MLP(*widths)) or None",
    "init": "an init object (Native, HyperfanIn, HyperfanOut, Harmonic, BiasHyperInit, Unscaled)",
}


def _refuse_empty_features(condition: Condition, heads: tuple[Head, ...]) -> None:
    """Raise if a head would be run on a condition without a vector, and without embeddings."""
    bare = [h.name for h in heads if h.needs_features and not h.embedding]
    if condition.width == 0 and bare:
        raise ValueError(
            message(
                "condition",
                f"{condition}, which has no vector, for {', '.join(bare)} heads",
                "a vector that they can map",
                "Use Embedding(num, dim), or a layout with embeddings of its own "
                "(Chunked(size, per_condition=True)).",
            )
        )


def _refuse_forms_without_layout(
    form: object, forms: Mapping[str, Form], layouts: Mapping[str, Layout]
) -> None:
    """Raise if a form's pattern asks for something that no layout generates."""
    lost = [name for name in forms if name not in layouts]
    if isinstance(form, Mapping) and lost:
        raise ValueError(
            message(
                "form",
                f"a form for {lost[0]!r}, which no layout generates",
                "forms for generated tensors only",
                "Add a pattern for it to layout, or narrow the form's pattern.",
            )
        )


def _refuse_other_width(heads: Iterable[Head], trunk: Trunk, in_width: int) -> None:
    """Raise if numbers are to be given, and there are more or fewer of them."""
    for head in heads:
        width = trunk.out_width(in_width + head.embedding)
        if head.source is Source.GIVEN and head.slot_size != width:
            if head.name.startswith("direct"):
                got = f"Direct({head.slot_size}) with features of width {width}"
                raise ValueError(message("layout", got, f"Direct({width}), the trunk's width"))
            raise ValueError(
                message(
                    "layout",
                    f"Given() with features of width {width}",
                    f"{head.slot_size} features, one for each number to generate",
                    "Change the width of the trunk, or of the condition if there is no trunk.",
                )
            )


def _parts(
    spec: TargetSpec, layouts: Mapping[str, Layout], forms: Mapping[str, Form], init: Init
) -> dict[str, tuple[Part, ...]]:
    """Return the parts of every tensor that is generated, in the target's order."""
    biased = {t.layer for t in spec if t.role is Role.BIAS and t.name in layouts}
    parts = {}
    for tensor in spec:
        if tensor.name not in layouts:
            continue
        if not tensor.dtype.startswith(("float", "bfloat")):
            raise TypeError(
                message(
                    "target",
                    f"{tensor.name!r} of dtype {tensor.dtype}",
                    "real floating-point tensors to generate",
                    "Leave it out of the layout's patterns: it then keeps the target's values.",
                )
            )
        form = forms.get(tensor.name, Whole())
        start = init.start(tensor, tensor.layer in biased)
        _refuse_start_not_finite(tensor.name, start)
        parts[tensor.name] = form.parts(tensor, start)
    return parts


def _refuse_start_not_finite(name: str, start: Start) -> None:
    """Raise if the init takes a start from a template that holds NaN or infinite values."""
    if not (math.isfinite(start.mean) and math.isfinite(start.std)):
        raise ValueError(
            message(
                "target",
                f"NaN or infinite values in {name!r}",
                "finite values, from which it is told how the generated tensor should start",
                "Initialise the target again.",
            )
        )


def _banks(
    spec: TargetSpec, forms: Mapping[str, Form], names: Iterable[str], init: Init
) -> tuple[tuple[Bank, ...], dict[str, int]]:
    """Return the banks, one for each shape, and which of them each tensor combines."""
    found: dict[tuple[int, ...], list[float]] = {}
    bank_of: dict[str, tuple[int, ...]] = {}
    for name in names:
        tensor = spec[name]
        bank = forms.get(name, Whole()).bank(tensor, init.start(tensor, False))
        if bank is not None:
            found.setdefault(bank.shape, []).append(bank.std)
            bank_of[name] = bank.shape
    banks = tuple(
        Bank(shape, math.sqrt(sum(s * s for s in stds) / len(stds)))
        for shape, stds in found.items()
    )
    index = {shape: i for i, shape in enumerate(found)}
    return banks, {name: index[shape] for name, shape in bank_of.items()}


def _place(
    layouts: Mapping[str, Layout], parts: Mapping[str, tuple[Part, ...]]
) -> tuple[tuple[Head, ...], dict[Part, Piece]]:
    """Let each layout place the parts that it was chosen for; name the heads apart.

    One layout object (or equal ones, under several patterns) places all its tensors together.
    """
    by_layout: dict[Layout, list[Part]] = {}
    for name, tensor_parts in parts.items():
        by_layout.setdefault(layouts[name], []).extend(tensor_parts)
    heads: list[Head] = []
    pieces: dict[Part, Piece] = {}
    for layout, members in by_layout.items():
        for placement in layout.compile(members, len(heads)):
            heads.append(placement.head)
            pieces.update(placement.pieces)
    count = {head.name: 0 for head in heads}
    named = []
    for head in heads:
        several = sum(other.name == head.name for other in heads) > 1
        named.append(replace(head, name=f"{head.name}{count[head.name]}") if several else head)
        count[head.name] += 1
    return tuple(named), pieces
