"""The numbers of a comparison, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from rich import box
from rich.table import Table

from hyperloom.recipes.continual.sequence import Record


def table(records: Mapping[str, Record]) -> Table:
    """Return a table: each learner's accuracy on each task right after it, and at the end.

    Args:
        records: What was measured, by the learner's name.
    """
    title = "Accuracy on test images, in percent"
    # No lines between columns: it is to fit a terminal of 80 characters.
    made = Table(title=title, title_style="bold", box=box.HORIZONTALS, padding=0, pad_edge=False)
    made.add_column("learner", no_wrap=True)
    made.add_column("measured", no_wrap=True)
    for task in next(iter(records.values())).tasks:
        made.add_column(task, justify="right", no_wrap=True)
    made.add_column("mean", justify="right", no_wrap=True, style="bold")
    for name, record in records.items():
        size = f"[dim]{record.num_parameters:,} numbers[/dim]"
        made.add_row(name, "right after", *_shown(record.right_after))
        made.add_row(size, "at the end", *_shown(record.final))
        made.add_row("", "forgotten", *_shown(record.forgotten), end_section=True)
    return made


def _shown(values: list[float]) -> list[str]:
    """Return the values and their mean; a rounded zero without a sign."""
    return [f"{round(value, 1) + 0.0:.1f}" for value in (*values, mean(values))]


def as_json(record: Record) -> dict[str, Any]:
    """Return a record as what `json` writes: percent, points, seconds."""
    return {
        "right_after": _rounded(record.right_after),
        "final": _rounded(record.final),
        "forgotten": _rounded(record.forgotten),
        "mean_right_after": round(mean(record.right_after), 3),
        "mean_final": round(mean(record.final), 3),
        "mean_forgotten": round(mean(record.forgotten), 3),
        "num_parameters": record.num_parameters,
        "seconds": round(record.seconds, 2),
        "over_time": {
            "tasks_learned": _rounded(record.times),
            "accuracy": [_rounded(row) for row in record.accuracy],
        },
    }


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]
