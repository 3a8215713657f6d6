"""The plots of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PLOTS = {
    "conditions": ("Conditions B", "64-256-256-10, one row each"),
    "rows": ("Rows n of each condition", "64-256-256-10, 64 conditions"),
    "size": ("Numbers in the target", "64-w-w-10, 64 conditions, one row each"),
}
STYLES = {
    "hyperloom": ("#c0392b", "o", 2.4),
    "hand bmm": ("#2471a3", "s", 1.4),
    "hand vmap": ("#5dade2", "^", 1.4),
    "hand contraction": ("#e59866", "x", 1.4),
    "loop": ("#7f8c8d", "v", 1.4),
    "hypnettorch": ("#1e8449", "D", 1.4),
    "hyper-nn": ("#8e44ad", "P", 1.4),
}


def draw(folder: Path, results: dict[str, dict[str, Any]]) -> None:
    """Draw time against conditions, rows and target size from the curves' results."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    for axis, (label, title) in PLOTS.items():
        figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        for name, (color, marker, width) in STYLES.items():
            points = sorted(
                (float(key.rpartition(" ")[2]), 1e3 * times[name]["median"])
                for key, times in results.items()
                if key.rpartition(" ")[0] == axis and name in times
            )
            if points:
                xs, ys = zip(*points, strict=True)
                axes.plot(xs, ys, color=color, marker=marker, linewidth=width, label=name)
        axes.set(xscale="log", yscale="log", xlabel=label, title=title)
        axes.set_ylabel("ms, forward and backward")
        axes.grid(alpha=0.3, which="both", linewidth=0.5)
        axes.legend(fontsize=8)
        figure.savefig(folder / f"benchmarks-{axis}.png", dpi=130)
        plt.close(figure)
