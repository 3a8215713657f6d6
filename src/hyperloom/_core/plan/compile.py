"""spec + condition + trunk + layout + form + init -> Plan."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from hyperloom._core.choices.conditions import Condition
from hyperloom._core.choices.forms import Form, Whole
from hyperloom._core.choices.inits import Init, Native
from hyperloom._core.choices.layouts import Full, Head, Layout, Piece
from hyperloom._core.choices.patterns import resolve
from hyperloom._core.choices.trunks import Linear, Trunk
from hyperloom._core.errors import a_kind, message
from hyperloom._core.plan.checked import check_fields, check_form, check_placements
from hyperloom._core.plan.plan import Entry, Plan
from hyperloom._core.records import Bank, Part, Role, SlotTable, Start
from hyperloom._core.target.spec import TargetSpec


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
            wins; what no pattern names keeps the target's own tensor. Default `Full()`. Where some
            tensors are frozen and others are not, a layout for all leaves the frozen ones as they
            are, unless a pattern of `form` names them.
        form: What is generated, likewise; what no pattern names is generated whole.
        init: How the generated tensors start out. Default `Native()`.

    Raises:
        TypeError: An argument of another class, or a complex or integer tensor to generate.
        ValueError: A pattern that names nothing, two choices for one tensor, a layout that
            needs ids with a condition that has none, a context that the trunk does not see, or
            a tensor whose start is not finite.
    """
    for argument, value, kind in (
        ("spec", spec, TargetSpec),
        ("condition", condition, Condition),
        ("trunk", Linear() if trunk is None else trunk, Trunk),
        ("init", Native() if init is None else init, Init),
    ):
        a_kind(argument, value, kind, _WANTED[argument])
    forms = resolve("form", Whole() if form is None else form, Form, spec)
    layouts = _layouts(spec, layout, forms if isinstance(form, Mapping) else {})
    _refuse_forms_without_layout(form, forms, layouts)
    for argument, choices in (("layout", layouts), ("form", forms), ("init", {"": init})):
        for choice in choices.values():
            if choice is not None:
                check_fields(argument, choice)
    parts = _parts(spec, layouts, forms, init or Native())
    heads, pieces = _place(layouts, parts)
    trunk = trunk or Linear()
    _refuse_missing_ids(condition, heads, trunk)
    _refuse_empty_features(condition, heads)
    _refuse_lost_context(condition, trunk)
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


def generated_forms(
    spec: TargetSpec, layout: Layout | Mapping[str, Layout] | None, form: object
) -> dict[str, Form]:
    """Return the forms of the tensors that are generated. Arguments as in `compile_plan`."""
    forms = resolve("form", Whole() if form is None else form, Form, spec)
    layouts = _layouts(spec, layout, forms if isinstance(form, Mapping) else {})
    return {name: forms.get(name, Whole()) for name in layouts}


def _layouts(
    spec: TargetSpec, layout: Layout | Mapping[str, Layout] | None, named: Collection[str]
) -> dict[str, Layout]:
    """Return the layout of each tensor that is generated.

    A layout for all is one for all that are trained, where any is; and for those that are `named`.
    """
    layouts = resolve("layout", Full() if layout is None else layout, Layout, spec)
    frozen = {t.name for t in spec if t.frozen} - {*named}
    if isinstance(layout, Mapping) or all(t.frozen for t in spec):
        return layouts
    return {name: chosen for name, chosen in layouts.items() if name not in frozen}


_WANTED = {
    "spec": "a TargetSpec, as target_spec(target) returns it",
    "condition": "a condition object (Embedding, Vector, Noise, Context, Concat)",
    "trunk": "a trunk object (MLP(*widths), Transformer(width)) or None",
    "init": "an init object (Native, HyperfanIn, HyperfanOut, Harmonic, BiasHyperInit, Orthogonal, "
    "Unscaled)",
}


def _refuse_lost_context(condition: Condition, trunk: Trunk) -> None:
    """Raise if a condition has a context that the trunk does not see."""
    if condition.context_width and not trunk.over_slots:
        got = f"{trunk} with the condition {condition}, whose context it does not see"
        way_out = "Use Transformer(width), or for one vector of a set MeanPool or AttentionPool."
        raise ValueError(message("trunk", got, "a trunk over slots", way_out))


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


def _refuse_missing_ids(condition: Condition, heads: Iterable[Head], trunk: Trunk) -> None:
    """Raise if a head or the trunk looks up ids, and the condition has none."""
    if condition.num_ids is not None:
        return
    names = sorted({head.name for head in heads if head.needs_ids})
    if names:
        got = f"{', '.join(names)} heads that look up a condition id"
        wanted = f"a condition with one set of ids, not {condition}"
        way_out = "Use Embedding(num, dim) as the condition, or as one part of Concat."
        raise ValueError(message("layout", got, wanted, way_out))
    if trunk.needs_ids:
        got, wanted = f"{trunk} with the condition {condition}", "a condition with ids"
        raise ValueError(message("trunk", got, wanted, "Use Embedding(num, dim)."))


def _refuse_other_width(heads: Iterable[Head], trunk: Trunk, in_width: int) -> None:
    """Raise if numbers are to be given, and there are more or fewer of them."""
    for head in heads:
        width = trunk.out_width(in_width + head.embedding)
        if head.given and head.slot_size != width:
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
        check_form(form, tensor, parts[tensor.name], form.bank(tensor, start))
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
    """Return the banks, one for each form and shape, and which of them each tensor combines."""
    stds_of_bank: dict[tuple[Form, tuple[int, ...]], list[float]] = {}
    bank_of: dict[str, tuple[Form, tuple[int, ...]]] = {}
    for name in names:
        form, tensor = forms.get(name, Whole()), spec[name]
        bank = form.bank(tensor, init.start(tensor, False))
        if bank is not None:
            bank_of[name] = (form, bank.shape)
            stds_of_bank.setdefault(bank_of[name], []).append(bank.std)
    banks = tuple(
        Bank(shape, math.sqrt(sum(s * s for s in stds) / len(stds)))
        for (_, shape), stds in stds_of_bank.items()
    )
    index = {key: i for i, key in enumerate(stds_of_bank)}
    return banks, {name: index[key] for name, key in bank_of.items()}


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
        placements = layout.compile(members, len(heads))
        check_placements(layout, members, placements, len(heads))
        for placement in placements:
            heads.append(placement.head)
            pieces.update(placement.pieces)
    count = {head.name: 0 for head in heads}
    named = []
    for head in heads:
        several = sum(other.name == head.name for other in heads) > 1
        named.append(replace(head, name=f"{head.name}{count[head.name]}") if several else head)
        count[head.name] += 1
    return _tables_named(named), pieces


def _tables_named(heads: Sequence[Head]) -> tuple[Head, ...]:
    """Name the tables of slot embeddings apart; equal ones are one."""
    tables = list(dict.fromkeys(part.table for head in heads for part in head.lookups))
    names: dict[SlotTable, str] = {}
    for table in tables:
        same = [other for other in tables if other.name == table.name]
        names[table] = table.name if len(same) == 1 else f"{table.name}{same.index(table)}"
    renamed = []
    for head in heads:
        parts = (replace(p, table=replace(p.table, name=names[p.table])) for p in head.lookups)
        renamed.append(replace(head, lookups=tuple(parts)) if head.lookups else head)
    return tuple(renamed)
