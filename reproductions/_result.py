"""What a reproduction returns: claims with their bounds, tables, and how the run was set up."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Step = Callable[[], None]
Track = Callable[[str, int], Step]
"""`track(description, total)` shows a progress bar and returns what moves it on by one."""


def silent(description: str, total: int) -> Step:
    """Track nothing."""
    return lambda: None


class Kept:
    """Numbers of a long run's parts, kept in a file, so that a run that was cut goes on.

    Args:
        path: The JSON file; `None` keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.made: dict[str, float] = {}
        if path is not None and path.exists():
            self.made = json.loads(path.read_text())

    def get(self, part: str, make: Callable[[], float]) -> float:
        """Return the number of a part that was run before, or run it and keep its number."""
        if part not in self.made:
            self.made[part] = make()
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_text(json.dumps(self.made))
        return self.made[part]

    def finish(self) -> None:
        """Delete the file: the numbers stand in the report now."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def claim(
    what: str,
    ours: Sequence[float],
    *,
    least: float | None = None,
    most: float | None = None,
    published: str = "–",
    digits: int = 2,
) -> dict[str, Any]:
    """Return a number, or the lowest and highest of several, beside the bound it has to keep.

    Args:
        what: What is claimed.
        ours: One number, or all that have to keep the bound.
        least: Lower bound, inclusive.
        most: Upper bound, inclusive.
        published: The published number, as text.
        digits: Decimals to show.
    """
    low, high = min(ours), max(ours)
    # Number by number, so that a NaN keeps no bound.
    holds = all((least is None or v >= least) and (most is None or v <= most) for v in ours)
    return {
        "what": what,
        "published": published,
        "ours": [low] if low == high else [low, high],
        "least": least,
        "most": most,
        "holds": holds,
        "digits": digits,
    }


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return a table; cells are text or numbers."""
    return {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}


def result(
    title: str,
    source: str,
    setup: Sequence[str],
    claims: Sequence[dict[str, Any]],
    tables: Sequence[dict[str, Any]],
    raw: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what `run` returns.

    Args:
        title: Heading of its section.
        source: Where the experiment is from.
        setup: What was run, a line each.
        claims: What has to hold.
        tables: More numbers, for readers.
        raw: All numbers, for programs; in the JSON only.
    """
    return {
        "title": title,
        "source": source,
        "setup": list(setup),
        "claims": list(claims),
        "tables": list(tables),
        "raw": raw or {},
    }


def mean_and_range(values: Sequence[float], digits: int) -> str:
    """Return the mean, and the lowest and highest in brackets."""
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f} ({min(values):.{digits}f} – {max(values):.{digits}f})"
