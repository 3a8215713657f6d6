"""The pictures of the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from hyperloom.recipes.describe.data import ORDERS, SHIFTS, TASKS


def tasks(seen: np.ndarray, unseen: np.ndarray) -> Figure:
    """Draw the share of exact answers for each task; those without an outline were trained.

    Args:
        seen: With unseen paraphrases, of the tasks that adapters were trained for `(tasks, num)`.
        unseen: Of the others.
    """
    grid = np.zeros(len(TASKS))
    grid[[task.number for task in TASKS if not task.unseen]] = seen.mean(1)
    grid[[task.number for task in TASKS if task.unseen]] = unseen.mean(1)
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        100 * grid.reshape(len(ORDERS), len(SHIFTS)), vmin=0, vmax=100, cmap="Blues"
    )
    for i, j in np.ndindex(len(ORDERS), len(SHIFTS)):
        share = 100 * grid[i * len(SHIFTS) + j]
        axes.text(j, i, f"{share:.0f}", ha="center", va="center", color="w" if share > 60 else "k")
        if TASKS[i * len(SHIFTS) + j].unseen:
            edges = [j - 0.46, j + 0.46, j + 0.46, j - 0.46, j - 0.46]
            axes.plot(edges, [i - 0.46, i - 0.46, i + 0.46, i + 0.46, i - 0.46], "C1", linewidth=2)
    axes.set_xticks(range(len(SHIFTS)), [f"{shift:+d}" for shift in SHIFTS])
    axes.set_yticks(range(len(ORDERS)), list(ORDERS))
    axes.set_xlabel("shift in the alphabet")
    axes.set_title(
        "exact answers, %: unseen sentences; outlined, combinations never trained", size=9
    )
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def means(rows: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> Figure:
    """Draw the share of exact answers by what the generator was told."""
    figure = Figure(figsize=(7.2, 3), layout="constrained")
    axes, names = figure.subplots(), list(rows)
    for k, column in enumerate(columns):
        places = np.arange(len(names)) + 0.38 * (k - (len(columns) - 1) / 2)
        bars = axes.barh(places, [rows[name][column] for name in names], 0.36, label=column)
        axes.bar_label(bars, fmt="%.0f", padding=2, size=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.set_xlabel("exact answers, %")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
