"""How plans print: what is generated, by what, and how large everything is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


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
