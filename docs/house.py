"""Draws the pictures of the design page, read off the code and off a call that is made.

    python -m docs.house

`docs/images/house.svg`: the rooms of the package and who imports whom. A room's height is its
lines of code; an arc from one room to another is as thick as the number of imports that it stands
for. `docs/images/call.svg`: the way of a call through files and rooms. A test compares both with
the code.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from itertools import groupby
from pathlib import Path

from benchmarks.trace import calls, way_of

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "hyperloom"
IMAGES = ROOT / "docs" / "images"

BACKEND = ("_tools", "_hypernetwork", "_run", "_rules", "_weights", "_generate", "_target")
CORE = (
    ("backend", "reports", "reference", "checkpoint"),
    ("plan",),
    ("choices",),
    ("target",),
    ("pieces", "records", "tables", "errors", "choice", "arrays"),
)
ABOVE = ("_cli", "recipes", "plot", "hub", "compat")
WIDTH, ROOM, LEFT, TOP = 860, 190, 170, 20
INK, FILL, GROUND, ARC = "#37474f", "#e0f2f1", "#fff3e0", "#00796b"


def module(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def room_of(name: str) -> str:
    """Return the room of a module, e.g. `torch._run` or `_core.plan`."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] in ("torch", "jax", "_core") else parts[0]


def read() -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Return the lines of each room, and the number of imports between two."""
    lines: Counter[str] = Counter()
    arrows: Counter[tuple[str, str]] = Counter()
    for path in sorted(SOURCE.rglob("*.py")):
        room, text = room_of(module(path)), path.read_text("utf-8")
        lines[room] += text.count("\n")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hyperloom."):
                other = room_of((node.module or "").removeprefix("hyperloom."))
                if other != room:
                    arrows[room, other] += 1
    return lines, arrows


class Sheet:
    """Collects shapes of an SVG."""

    def __init__(self) -> None:
        self.shapes: list[str] = []
        self.bottom = 0.0

    def box(self, x: float, y: float, w: float, h: float, label: str, note: str, fill: str) -> None:
        self.bottom = max(self.bottom, y + h)
        self.shapes.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{w:.0f}" height="{h:.0f}" rx="4" '
            f'fill="{fill}" stroke="{INK}"/>'
            f'<text x="{x + 8:.0f}" y="{y + h / 2 + 4:.0f}">{label}</text>'
            f'<text x="{x + w - 8:.0f}" y="{y + h / 2 + 4:.0f}" class="n">{note}</text>'
        )

    def text(self, x: float, y: float, text: str) -> None:
        self.shapes.append(f'<text x="{x:.0f}" y="{y:.0f}" class="t">{text}</text>')

    def arc(self, rooms: str, x: float, start: float, stop: float, side: int, num: int) -> None:
        """Draw imports from the room at height `start` to that at `stop`, bulging to `side`."""
        bulge = x + side * (18 + abs(stop - start) * 0.28)
        width = 0.6 + num**0.5 * 0.45
        self.shapes.append(
            f'<path data-arc="{rooms}" d="M{x:.0f} {start:.0f} C{bulge:.0f} {start:.0f} '
            f'{bulge:.0f} {stop:.0f} {x:.0f} {stop:.0f}" stroke="{ARC}" '
            f'stroke-width="{width:.1f}" fill="none" '
            f'opacity=".7" marker-end="url(#a)"/>'
        )

    def svg(self, label: str) -> str:
        style = (
            f"text{{font:13px sans-serif;fill:{INK}}}.n{{text-anchor:end;font-size:11px}}"
            ".t{font-weight:bold;font-size:14px}.s{font-size:10px}"
        )
        marker = (
            '<marker id="a" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="7" markerHeight="7" '
            'orient="auto" markerUnits="userSpaceOnUse">'
            f'<path d="M0 0L6 3L0 6z" fill="{ARC}"/></marker>'
        )
        height = self.bottom + TOP
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
            f'role="img" aria-label="{label}">'
            f'<style>{style}</style><defs>{marker}</defs><rect width="100%" height="100%" '
            f'fill="white"/>' + "\n".join(self.shapes) + "</svg>\n"
        )


def arcs(picture: str) -> set[tuple[str, str]]:
    """Return who imports whom in a picture."""
    return {(a, b) for a, b in re.findall(r'data-arc="(\S+) (\S+)"', picture)}


def draw() -> str:
    """Return the picture."""
    lines, arrows = read()
    sheet = Sheet()
    y = float(TOP)
    for i, name in enumerate(ABOVE):
        x = LEFT + i * (WIDTH - 2 * LEFT + 10) / len(ABOVE)
        width = (WIDTH - 2 * LEFT - 20) / len(ABOVE)
        sheet.box(x, y, width, 28, name, f"{lines[name]}", FILL)
    y += 62
    columns = {"torch": (LEFT, -1), "jax": (WIDTH - LEFT - ROOM, 1)}
    for backend, (x, side) in columns.items():
        sheet.text(x, y - 8, f"hyperloom.{backend}")
        at, middle = y, {}
        for name in BACKEND:
            room = f"{backend}.{name}"
            height = max(26.0, lines[room] / 26)
            sheet.box(x, at, ROOM, height, name, f"{lines[room]}", FILL)
            middle[room], at = at + height / 2, at + height + 8
        edge = x if side < 0 else x + ROOM
        for (start, stop), num in sorted(arrows.items()):
            if start in middle and stop in middle:
                sheet.arc(f"{start} {stop}", edge, middle[start] - 4, middle[stop] + 4, side, num)
    y = sheet.bottom + 44
    sheet.text(LEFT, y - 8, "hyperloom._core")
    for names in CORE:
        there = [n for n in names if lines[f"_core.{n}"]]
        width = (WIDTH - 2 * LEFT - 8 * (len(there) - 1)) / len(there)
        for i, name in enumerate(there):
            room = f"_core.{name}"
            sheet.box(LEFT + i * (width + 8), y, width, 28, name, f"{lines[room]}", GROUND)
        y += 36
    return sheet.svg("The rooms of hyperloom and their imports")


LANES = (
    "_hypernetwork.py",
    "_run",
    "_target",
    "_generate",
    "_weights",
    "_rules",
    "_core",
    "torch/",
)
LANE, FIRST = 46, 150


def stations() -> list[tuple[str, str, int]]:
    """Return the way of a call on a target with a forward of its own: room, file, functions."""
    found: list[tuple[str, str, int]] = []
    for file, group in groupby(step[0] for step in way_of(calls()["own forward"]).steps):
        parts = file.split("/")
        room = parts[1] if parts[0] == "torch" else parts[0]
        room = room if room in LANES else "torch/"
        found.append((room, parts[-1].removesuffix(".py"), len(list(group))))
    return found


def files(picture: str) -> list[str]:
    """Return the files of a call in a picture, in order."""
    return re.findall(r'data-file="(\S+)"', picture)


def draw_call(way: list[tuple[str, str, int]]) -> str:
    """Return the picture of a call: a lane for each room, a dot for each stay in a file."""
    sheet, step = Sheet(), (WIDTH - FIRST - 40) / max(1, len(way) - 1)
    seen = {room for room, _, _ in way}
    lanes = [lane for lane in LANES if lane in seen]
    for i, lane in enumerate(lanes):
        y = TOP + 40 + i * LANE
        sheet.text(12, y + 4, lane)
        sheet.shapes.append(
            f'<line x1="{FIRST - 14}" x2="{WIDTH - 14}" y1="{y}" y2="{y}" stroke="{FILL}" '
            'stroke-width="26" stroke-linecap="round"/>'
        )
    rooms = (room for room, _, _ in way)
    places = [
        (FIRST + i * step, TOP + 40 + lanes.index(room) * LANE) for i, room in enumerate(rooms)
    ]
    line = " ".join(f"{x:.0f},{y:.0f}" for x, y in places)
    sheet.shapes.append(f'<polyline points="{line}" fill="none" stroke="{ARC}" opacity=".6"/>')
    for (x, y), (_, file, num) in zip(places, way, strict=True):
        sheet.shapes.append(
            f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{2.5 + num**0.5:.1f}" fill="{ARC}"/>'
            f'<text class="s" data-file="{file}" '
            f'transform="translate({x + 3:.0f} {y - 9:.0f}) rotate(-38)">'
            f"{file}</text>"
        )
    sheet.bottom = TOP + 40 + len(lanes) * LANE - 10
    return sheet.svg("The way of a call through the rooms and files")


def main() -> None:
    """Draw both."""
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "house.svg").write_text(draw(), "utf-8")
    (IMAGES / "call.svg").write_text(draw_call(stations()), "utf-8")


if __name__ == "__main__":
    main()
