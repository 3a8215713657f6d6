"""Draws the pictures of the first page and of the pages on layouts and forms.

    python -m docs.pictures

`docs/images/layouts/*.svg` are plans as `hl.draw` draws them. `docs/images/hyperloom.svg` shows
what a hypernetwork is: it moves, unless the reader prefers that nothing does. A test compares them
all with what this script draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

import hyperloom.torch as hl
from hyperloom._core.plan.picture import COLOURS

IMAGES = Path(__file__).parent / "images"

LAYOUTS: dict[str, tuple[Any, Any]] = {
    "full": (hl.Full(), None),
    "chunked": (hl.Chunked(200, embedding=8), None),
    "grouped": (hl.Grouped(embedding=8), None),
    "grouped-layers": (hl.Grouped(embedding=8, unit=hl.Layers()), None),
    "grouped-tiles": (hl.Grouped(embedding=8, unit=hl.Tiles(smallest=256)), None),
    "per-condition": (hl.PerCondition(), None),
    "mix": (
        {
            "6.*": hl.PerCondition(),
            "0.*": hl.Shared(),
            "*.weight": hl.Chunked(256, embedding=8),
        },
        None,
    ),
    "lora": ({"*.weight": hl.Full()}, hl.LoRA(2)),
    "film": ({"[024].*": hl.Full()}, {"[024].weight": hl.Scale(), "[024].bias": hl.Shift()}),
    "templates": ({"*.weight": hl.Full()}, hl.Templates(6)),
}


def target() -> nn.Module:
    """Return the target of the page on layouts."""
    widths = (64, 32, 32, 32, 10)
    pairs = pairwise(widths)
    layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def plan(name: str) -> hl.Plan:
    layout, form = LAYOUTS[name]
    return hl.HyperNetwork(
        target(), condition=hl.Embedding(5, 8), trunk=hl.MLP(32), layout=layout, form=form
    ).plan


# ---- what a hypernetwork is -------------------------------------------------------------------

WIDE, HIGH, NUM, PERIOD = 760, 300, 4, 8.0
HUES = (COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[4])
MOTION = (
    f"@keyframes turn{{0%,{100 / NUM:.0f}%{{opacity:1}}{100 / NUM + 4:.0f}%,96%{{opacity:.4}}"
    "100%{opacity:1}}"
    f"@keyframes flow{{from{{stroke-dashoffset:16}}to{{stroke-dashoffset:0}}}}"
    f".turn{{animation:turn {PERIOD:.0f}s linear infinite}}"
    ".flow{stroke-dasharray:4 4;animation:flow 1s linear infinite}"
    "@media(prefers-reduced-motion:reduce){.turn,.flow{animation:none}.turn{opacity:1}}"
)
GROUND = (
    "text{font:14px system-ui,sans-serif;fill:#22282e}.q{font-size:12px;fill:#555d66}"
    ".g{fill:#fafafa;stroke:#d0d4d8}.k{fill:#fff;stroke:#22282e}.e{stroke:#7b858f}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e9ec}.q{fill:#aab2ba}"
    ".g{fill:#1d2126;stroke:#3c444c}.k{fill:#30363d;stroke:#e6e9ec}.e{stroke:#8b959f}}"
)
LABEL = (
    "Four conditions go through one trunk; its features become, by the layout, four sets of "
    "weights, and four networks run."
)


def idea() -> str:
    """Return the picture: conditions, one trunk, a layout, and as many networks as conditions."""
    shapes = [
        *_titles(),
        *_conditions(),
        *_trunk(),
        *_layout(),
        *(shape for i in range(NUM) for shape in _network(i)),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" width="{WIDE}" '
        f'role="img" aria-label="{LABEL}"><style>{GROUND}{MOTION}</style>'
        f'<rect class="g" x=".5" y=".5" width="{WIDE - 1}" height="{HIGH - 1}" rx="10"/>'
        + "\n".join(shapes)
        + "</svg>\n"
    )


def _middle(i: int) -> float:
    """Height at which condition `i` and its network stand."""
    return 88 + i * 52


def _turn(i: int) -> str:
    """When the colour of condition `i` is at its fullest."""
    return f'class="turn" style="animation-delay:{i * PERIOD / NUM - PERIOD:.0f}s"'


def _titles() -> Iterator[str]:
    columns = (
        (24, "B conditions", "hl.Embedding(4, 8)"),
        (176, "one trunk", "hl.MLP(32, 32)"),
        (352, "a layout", "hl.Chunked(200)"),
        (560, "B networks", "one forward, one backward"),
    )
    for x, title, code in columns:
        yield f'<text x="{x}" y="34" font-weight="bold">{title}</text>'
        yield f'<text x="{x}" y="52" class="q">{code}</text>'


def _conditions() -> Iterator[str]:
    for i, hue in enumerate(HUES):
        y = _middle(i)
        cells = "".join(
            f'<rect x="{24 + 11 * j}" y="{y - 6:.0f}" width="10" height="12" fill="{hue}" '
            f'fill-opacity="{0.35 + 0.6 * abs(math.sin(3 * i + 1.7 * j)):.2f}"/>'
            for j in range(8)
        )
        yield f"<g {_turn(i)}>{cells}</g>"
        yield f'<path class="e" d="M118 {y:.0f}C145 {y:.0f} 145 166 172 166" fill="none"/>'
        yield (
            f'<g {_turn(i)}><path class="flow" d="M118 {y:.0f}C145 {y:.0f} 145 166 172 166" '
            f'fill="none" stroke="{hue}" stroke-width="2.5"/></g>'
        )


def _trunk() -> Iterator[str]:
    columns = [[(186 + 44 * c, 116 + 25 * r) for r in range(5)] for c in range(3)]
    for left, right in pairwise(columns):
        lines = "".join(f"M{a} {b}L{x} {y}" for a, b in left for x, y in right)
        yield f'<path class="e" d="{lines}" stroke-width=".7" opacity=".7"/>'
    for column in columns:
        for x, y in column:
            yield f'<circle class="k" cx="{x}" cy="{y}" r="6"/>'
    yield '<path class="e" d="M290 166H340m-7-5 7 5-7 5" stroke-width="1.6" fill="none"/>'


def _layout() -> Iterator[str]:
    """Draw rows of chunks, a sheet for each condition, one behind the other."""
    for i in reversed(range(NUM)):
        x, y = 352 + 14 * i, 104 + 12 * i
        yield f'<g {_turn(i)}><rect class="g" x="{x}" y="{y}" width="96" height="92" rx="3"/>'
        for row in range(8):
            strength = 0.45 + 0.5 * abs(math.sin(2 * i + 2.3 * row))
            yield (
                f'<rect x="{x + 4}" y="{y + 4 + 10.7 * row:.1f}" width="88" height="9" '
                f'fill="{HUES[i]}" fill-opacity="{strength:.2f}"/>'
            )
        yield "</g>"


def _network(i: int) -> Iterator[str]:
    y, hue = _middle(i), HUES[i]
    start = f"M{452 + 14 * i} {150 + 12 * i}"
    path = f"{start}C520 {150 + 12 * i} 510 {y:.0f} 556 {y:.0f}"
    yield f'<path class="e" d="{path}" fill="none"/>'
    colour = f'stroke="{hue}"'
    yield f'<g {_turn(i)}><path class="flow" d="{path}" fill="none" {colour} stroke-width="2.5"/>'
    columns = [
        [(572 + 50 * c, y + 13 * (r - (n - 1) / 2)) for r in range(n)]
        for c, n in enumerate((3, 4, 3, 2))
    ]
    for c, (left, right) in enumerate(pairwise(columns)):
        for k, (a, b) in enumerate(left):
            for j, (x, z) in enumerate(right):
                width = 0.5 + 2.2 * abs(math.sin(5 * i + 3 * c + 2 * k + 1.3 * j))
                yield f'<path d="M{a} {b:.1f}L{x} {z:.1f}" {colour} stroke-width="{width:.1f}"/>'
    for column in columns:
        for x, z in column:
            yield f'<circle class="k" cx="{x}" cy="{z:.1f}" r="4"/>'
    yield "</g>"


def pictures() -> dict[str, str]:
    """Return all pictures by their paths in `docs/images/`."""
    plans = {f"layouts/{name}.svg": str(hl.draw(plan(name))) for name in LAYOUTS}
    return {"hyperloom.svg": idea(), **plans}


def main() -> None:
    """Draw all."""
    (IMAGES / "layouts").mkdir(parents=True, exist_ok=True)
    for name, text in pictures().items():
        (IMAGES / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
