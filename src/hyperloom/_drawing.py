"""How plans print: what is generated, by what, and how large everything is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperloom._form import Whole
from hyperloom._layout import Head, Piece, Source

if TYPE_CHECKING:
    from hyperloom._plan import Entry, Plan

_MOST_ROWS = 12


def human(number: float, unit: str = "") -> str:
    """Return a number in at most four digits: 950, 12.3 k, 4.56 M."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g} {letter}{unit}"
    return f"{number:.3g} {unit}".rstrip()


def table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a plain table with aligned columns."""
    lines = [titles, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    drawn = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return [line.rstrip() for line in [drawn[0], "-" * min(100, sum(widths)), *drawn[1:]]]


def draw_plan(plan: Plan) -> str:
    """Draw the plan as a small tree, one line for each part and each tensor."""
    width = plan.condition.width
    lines = [
        f"{plan.spec.name}: {human(plan.num_target_parameters)} parameters in {len(plan.spec)}"
        f" tensors, {human(plan.num_generated)} generated for each condition",
        f"├─ condition  {plan.condition} -> ({width},)",
    ]
    for w in plan.widths:
        seen = f"({width} + {w} slot embedding,)" if w else f"({width},)"
        lines.append(f"├─ trunk      {plan.trunk}: {seen} -> ({plan.trunk.out_width(width + w)},)")
    for i, head in enumerate(plan.heads):
        lines.append(f"├─ head       {_draw_head(plan, head)}")
        members = [(e, p) for e in plan.entries for p in e.pieces if p.head == i]
        shown = [f"│    {_draw_piece(plan, e, p)}" for e, p in members]
        lines += _cut(shown, "│    ")
    if plan.kept:
        noun = "tensor stays" if len(plan.kept) == 1 else "tensors stay"
        lines.append(f"├─ kept       {len(plan.kept)} {noun} the target's own")
        lines += _cut(
            [f"│    {name} {_shape(plan.spec[name].shape)}" for name in plan.kept], "│    "
        )
    size = (
        f"{human(plan.num_parameters)} parameters ({human(plan.parameter_bytes(), 'B')} in float32)"
    )
    lines.append(f"└─ learned    {size}, {plan.compression:.3g} x the target")
    return "\n".join(lines)


def _draw_head(plan: Plan, head: Head) -> str:
    if head.source is Source.TABLE:
        return f"{head.name}: {plan.num_ids} ids x {head.slot_size} learned numbers, no generator"
    if head.source is Source.SHARED:
        return f"{head.name}: {head.slot_size} learned numbers for all conditions"
    if head.source is Source.GIVEN:
        run = "the features are the numbers"
    else:
        run = f"Linear({plan.features(head)} -> {head.slot_size})"
    if head.num_slots == 1 and not head.embedding:
        return f"{head.name}: {run}"
    cut = head.num_slots * head.slot_size - head.num_used
    own = ", embeddings for each id" if head.per_condition else ""
    return f"{head.name}: {head.num_slots} x {run}{f', last cut by {cut}' if cut else ''}{own}"


def _draw_piece(plan: Plan, entry: Entry, piece: Piece) -> str:
    spec = plan.spec[entry.tensor]
    text = f"{entry.tensor} {_shape(spec.shape)}"
    if len(entry.pieces) > 1 or piece.shape != spec.shape:
        text += f" from {_shape(piece.shape)}"
    count, scale, shift = piece.count, piece.scale, piece.shift
    if count > 1:
        text += f" = {count} tiles {_shape(piece.tile)}"
    if scale != 1.0:
        text += f" x {scale:.3g}"
    if shift != 0.0:
        text += f" + {shift:.3g}"
    if entry.form != Whole():
        text += f", {entry.form}"
    if spec.aliases:
        text += f", tied to {', '.join(spec.aliases)}"
    return text


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "scalar"


def _cut(lines: list[str], indent: str) -> list[str]:
    if len(lines) <= _MOST_ROWS:
        return lines
    return [*lines[: _MOST_ROWS - 1], f"{indent}... and {len(lines) - _MOST_ROWS + 1} more"]
