"""`draw`: a plan as a picture, an SVG in which areas are numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import Any

from hyperloom._core.errors import message, shown
from hyperloom._core.pieces import Piece
from hyperloom._core.plan.plan import Entry, Plan, draw_head, shape_text
from hyperloom._core.records import Head
from hyperloom._core.tables import human

WIDTH, MARGIN, ROW = 640, 16, 18
BAND = WIDTH - 2 * MARGIN
# Those of Okabe and Ito without black, and a darker yellow: told apart by the colour-blind, and
# seen on light and on dark ground.
COLOURS = (
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#0072b2",
    "#b8a800",
)
# The picture brings its own ground, so that it can be read wherever it is put; which of the two it
# has follows the reader's preference.
STYLE = (
    ".hl-plan{font:12px system-ui,sans-serif;color-scheme:light dark;max-width:100%}"
    ".hl-plan .g{fill:#fafafa;stroke:#d0d4d8}.hl-plan text{fill:#22282e}"
    ".hl-plan .q{fill:#555d66}.hl-plan .l{stroke:#22282e}.hl-plan .b{fill:#e9edf1}"
    "@media(prefers-color-scheme:dark){.hl-plan .g{fill:#1d2126;stroke:#3c444c}"
    ".hl-plan text{fill:#e6e9ec}.hl-plan .q{fill:#aab2ba}.hl-plan .l{stroke:#e6e9ec}"
    ".hl-plan .b{fill:#30363d}}"
)
NUMBERS_AREA = 56_000.0  # square units of all generated numbers together
MOST_LABELS = 24  # tensors; with more only tooltips name them
LEAST = 4.0  # sides below this would not be seen
LONGEST = 6.0  # a rectangle's longer side is at most this times the other


class Drawing(str):
    """The text of an SVG, which a notebook shows as the picture."""

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return str(self)


def draw(plan: Any) -> Drawing:
    """Draw a plan: the condition, the trunks, each head with its slots, and the tensors.

    Areas are to scale. A head is a band as long as all others; each slot (one run of the head) is
    a row of it; the colour of a stretch is that of the tensor that it becomes. A tensor is a
    rectangle, its first axis down, with all others across. Where a form makes a tensor from
    factors, these stand beside it as strips. Grey is what is not generated, or cut off.

    Args:
        plan: A `Plan`, or what has one as its attribute `plan`, such as a `HyperNetwork`.

    Returns:
        The text of an SVG, readable on light and dark ground. A notebook shows it; elsewhere,
        `Path("plan.svg").write_text(hl.draw(plan))`.

    Raises:
        TypeError: Neither a plan nor something that has one.
    """
    plan = getattr(plan, "plan", plan)
    if not isinstance(plan, Plan):
        wanted = "a Plan or a HyperNetwork"
        raise TypeError(message("plan", shown(plan), wanted, "hl.draw(hnet.plan) draws one."))
    sheet = _Sheet()
    _draw_chain(sheet, plan)
    colours = {e.tensor: COLOURS[i % len(COLOURS)] for i, e in enumerate(plan.entries)}
    side = math.sqrt(NUMBERS_AREA / max(1, sum(h.num_slots * h.slot_size for h in plan.heads)))
    for index, head in enumerate(plan.heads):
        _draw_head(sheet, plan, index, head, side, colours)
    _draw_tensors(sheet, plan, side, colours)
    learned = f"{human(plan.num_parameters)} learned numbers, {plan.compression:.3g} × the target"
    sheet.line(f"{learned}; {human(plan.num_generated)} generated for each condition", "q")
    label = f"{plan.spec.name}: {len(plan.heads)} heads generate {len(plan.entries)} tensors"
    return Drawing(sheet.svg(label))


class _Sheet:
    """Collects shapes from top to bottom."""

    def __init__(self) -> None:
        self.shapes: list[str] = []
        self.y = float(MARGIN)

    def line(self, text: str, style: str = "") -> None:
        self.text(MARGIN, self.y + 13, text, style)
        self.y += ROW

    def text(self, x: float, y: float, text: str, style: str = "", most: int = 100) -> None:
        cut = text if len(text) <= most else f"{text[: most - 1]}…"
        style = f' class="{style}"' if style else ""
        self.shapes.append(f'<text x="{x:.1f}" y="{y:.1f}"{style}>{escape(cut)}</text>')

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        fill: str = "",
        title: str = "",
        rest: str = "",
    ) -> None:
        """Draw a rectangle; without a fill it has that of what is not generated."""
        painted = f'fill="{fill}"' if fill else 'class="b"'
        inner = f"<title>{escape(title)}</title>" if title else ""
        self.shapes.append(
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{w:.2f}" height="{h:.2f}" {painted}{rest}>'
            f"{inner}</rect>"
        )

    def stroke(self, path: str, width: float = 0.6, opacity: float = 0.5) -> None:
        self.shapes.append(
            f'<path d="{path}" class="l" fill="none" stroke-width="{width}" opacity="{opacity}"/>'
        )

    def svg(self, label: str) -> str:
        height = self.y + MARGIN - 4
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="hl-plan" role="img" '
            f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" aria-label="{escape(label)}">'
            f"<style>{STYLE}</style>"
            f'<rect class="g" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="8"/>'
            + "\n".join(self.shapes)
            + "</svg>\n"
        )


def _draw_chain(sheet: _Sheet, plan: Plan) -> None:
    """Draw the condition, and an arrow to each trunk."""
    width = plan.condition.width
    half = (BAND - 28) / 2
    rows = [
        (f"{plan.trunk}", f"{width}{f' + {w} slot embedding' if w else ''} → ", w)
        for w in plan.widths
    ]
    top, height = sheet.y, 40.0
    tall = max(1, len(rows)) * (height + 6) - 6
    sheet.box(MARGIN, top, half, height, title=str(plan.condition), rest=' rx="6"')
    sheet.text(MARGIN + 10, top + 17, str(plan.condition), most=44)
    sheet.text(MARGIN + 10, top + 33, f"condition → {width} numbers", "q")
    for i, (name, seen, w) in enumerate(rows):
        y = top + i * (height + 6)
        x = MARGIN + half + 28
        sheet.box(x, y, half, height, title=name, rest=' rx="6"')
        sheet.text(x + 10, y + 17, name, most=44)
        out = plan.trunk.out_width(width + w)
        sheet.text(x + 10, y + 33, f"trunk: {seen}{out} features", "q")
        start, stop, middle = MARGIN + half + 3, x - 4, y + height / 2
        sheet.stroke(
            f"M{start:.0f} {top + height / 2:.0f}L{stop:.0f} {middle:.0f}m-6-4 6 4-6 4", 1.4, 1
        )
    sheet.y = top + tall + 10


def _draw_head(
    sheet: _Sheet, plan: Plan, index: int, head: Head, side: float, colours: dict[str, str]
) -> None:
    """Draw a head: a row for each slot, coloured by what its numbers become."""
    sheet.line(draw_head(plan, index))
    row = max(head.slot_size * side * side / BAND, LEAST if head.num_slots == 1 else 0.0)
    row = max(row, LEAST / head.num_slots)
    top, unit = sheet.y, BAND / head.slot_size
    sheet.box(MARGIN, top, BAND, row * head.num_slots, title="cut off")
    for entry in plan.entries:
        for piece in entry.pieces:
            if piece.head != index:
                continue
            title = f"{entry.tensor} {shape_text(plan.spec[entry.tensor].shape)}"
            for x, y, w, h in _stretches(piece, head.slot_size):
                fill = colours[entry.tensor]
                sheet.box(MARGIN + x * unit, top + y * row, w * unit, h * row, fill, title)
    if head.num_slots > 1 and row >= 2:
        right = MARGIN + BAND
        lines = (f"M{MARGIN} {top + i * row:.2f}H{right}" for i in range(1, head.num_slots))
        sheet.stroke("".join(lines), 0.6, 0.45)
    if not head.needs_features:  # learned as they are: an outline, nothing runs
        outline = f"M{MARGIN} {top:.1f}h{BAND}v{row * head.num_slots:.1f}h{-BAND}z"
        sheet.stroke(outline, 1.2, 0.9)
    sheet.y = top + row * head.num_slots + 8


def _stretches(piece: Piece, size: int) -> Iterator[tuple[float, float, float, float]]:
    """Yield the rectangles (x, y, width, height), in numbers and slots, that a piece covers.

    What a piece has of a block that is cut is drawn as the first part of it, however it lies.
    """
    if piece.cut:
        for i, kept in enumerate(piece.kept_of_blocks()):
            slot, first = divmod(piece.start + i * piece.stride, size)
            yield first, slot, kept, 1
        return
    start, stop = piece.start, piece.start + piece.span
    first, last = start // size, (stop - 1) // size
    if first == last:
        yield start % size, first, piece.span, 1
        return
    if start % size:
        yield start % size, first, size - start % size, 1
        first += 1
    whole = stop // size - first
    if whole:
        yield 0, first, size, whole
    if stop % size:
        yield 0, last, stop % size, 1


def _draw_tensors(sheet: _Sheet, plan: Plan, side: float, colours: dict[str, str]) -> None:
    """Draw the target's tensors in its order, line after line."""
    kept = set(plan.kept)
    noun = f"{plan.spec.name}'s tensors"
    sheet.line(noun if not kept else f"{noun}; grey: {len(kept)} not generated")
    labels = len(plan.spec) <= MOST_LABELS
    # A target of which little is generated must not fill pages with grey.
    side = min(side, math.sqrt(2.5 * NUMBERS_AREA / max(1, plan.num_target_parameters)))
    entries = {entry.tensor: entry for entry in plan.entries}
    x, y, tall = float(MARGIN), sheet.y + 4, 0.0
    for tensor in plan.spec:
        entry = entries.get(tensor.name)
        w, h = _sides(tensor.shape, side)
        left, over = _strips(entry, tensor.shape, w, h)
        label = f"{tensor.name} {shape_text(tensor.shape)}"
        needed = max(left + w, 6.7 * len(label) if labels else 0.0)
        if x > MARGIN and x + needed > WIDTH - MARGIN:
            x, y, tall = float(MARGIN), y + tall + (22 if labels else 8), 0.0
        _draw_tensor(sheet, entry, tensor.shape, (x, y, w, h), label, colours)
        if labels:
            sheet.text(x, y + over + h + 13, label, "" if entry else "q")
        x, tall = x + needed + 12, max(tall, over + h)
    sheet.y = y + tall + (24 if labels else 12)


def _sides(shape: tuple[int, ...], side: float) -> tuple[float, float]:
    """Return width and height of a tensor: to scale, unless it would be too long or too thin."""
    rows = shape[0] if shape else 1
    across = math.prod(shape[1:])
    area = rows * across * side * side
    ratio = min(max(across / max(1, rows), 1 / LONGEST), LONGEST)
    w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
    grow = max(1.0, LEAST / max(min(w, h), 1e-9))
    shrink = min(1.0, (BAND - 60) / (w * grow))
    return w * grow * shrink, h * grow * shrink


def _strips(entry: Entry | None, shape: tuple[int, ...], w: float, h: float) -> tuple[float, float]:
    """Return how much room factors take, at the left of a tensor and above it."""
    if entry is None or _whole(entry, shape):
        return 0.0, 0.0
    parts = [_strip(piece, shape, w, h) for piece in entry.pieces]
    left = sum(part[0] + 2 for part in parts if part[2])
    over = sum(part[1] + 2 for part in parts if not part[2])
    return left, over


def _whole(entry: Entry, shape: tuple[int, ...]) -> bool:
    return len(entry.pieces) == 1 and entry.pieces[0].numel == math.prod(shape)


def _strip(piece: Piece, shape: tuple[int, ...], w: float, h: float) -> tuple[float, float, bool]:
    """Return width and height of a factor's strip, and whether it stands at the left."""
    rows, across = shape[0] if shape else 1, math.prod(shape[1:])
    if piece.shape and piece.shape[0] == rows:
        return max(3.0, min(w, piece.numel / rows * w / across)), h, True
    thick = max(3.0, min(h, piece.numel / across * h / rows))
    long = w if piece.numel >= across else max(6.0, w * piece.numel / across)
    return long, thick, False


def _draw_tensor(
    sheet: _Sheet,
    entry: Entry | None,
    shape: tuple[int, ...],
    place: tuple[float, float, float, float],
    label: str,
    colours: dict[str, str],
) -> None:
    """Draw one tensor: filled if it is generated whole, grey with its factors beside it if not."""
    x, y, w, h = place
    if entry is None:
        sheet.box(x, y, w, h, title=f"{label}: the target's own")
        return
    fill = colours[entry.tensor]
    title = f"{label}: {entry.form}"
    if _whole(entry, shape):
        sheet.box(x, y, w, h, fill, title)
        _draw_grid(sheet, entry.pieces[0], place)
        return
    left, over = _strips(entry, shape, w, h)
    sheet.box(x + left, y + over, w, h, title=title)
    sheet.stroke(f"M{x + left:.1f} {y + over:.1f}h{w:.1f}v{h:.1f}h{-w:.1f}z")
    at_left, at_top = x, y
    for piece in entry.pieces:
        wide, high, beside = _strip(piece, shape, w, h)
        factor = f"{title}, {shape_text(piece.shape)} generated"
        if beside:
            sheet.box(at_left, y + over, wide, high, fill, factor)
            at_left += wide + 2
        else:
            sheet.box(x + left, at_top, wide, high, fill, factor)
            at_top += high + 2


def _draw_grid(sheet: _Sheet, piece: Piece, place: tuple[float, float, float, float]) -> None:
    """Draw where tiles meet."""
    if piece.count == 1:
        return
    x, y, w, h = place
    down, across = piece.grid[0], math.prod(piece.grid[1:])
    path = "".join(f"M{x:.1f} {y + h * i / down:.1f}h{w:.1f}" for i in range(1, down))
    path += "".join(f"M{x + w * i / across:.1f} {y:.1f}v{h:.1f}" for i in range(1, across))
    if path:
        sheet.stroke(path, 0.8, 0.8)
