"""`hyperloom plot FILE`: all pictures that a checkpoint gives by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hyperloom._core.plan.picture import draw
from hyperloom._core.plan.plan import Plan
from hyperloom.plot._draw.figures import conditions, known, similarity, tensor, weights
from hyperloom.plot._draw.path import path
from hyperloom.plot._draw.saved import read_saved

DPI = 120


def pictures(checkpoint: Path, plan: Plan, out: Path, name: str = "") -> Iterator[tuple[Path, str]]:
    """Write the pictures one after the other.

    Args:
        checkpoint: The file.
        plan: Its plan.
        out: A folder that is there.
        name: The tensor to look at; the largest by default.

    Yields:
        The path of each picture, and what it shows.

    Raises:
        TypeError: The plan holds what NumPy cannot compute: then the plan alone is drawn.
        ValueError: No such tensor, or a base that is not in the file.
    """
    if name:
        known(plan, name)
    file = out / "plan.svg"
    file.write_text(draw(plan), "utf-8")
    yield file, "the plan, to scale"
    if not plan.num_ids or plan.num_ids < 2:
        return
    sizes = {entry.tensor: plan.spec[entry.tensor].numel for entry in plan.entries}
    chosen, found = name or max(sizes, key=lambda n: sizes[n]), read_saved(checkpoint)
    figures = {
        "conditions.png": (lambda: conditions(found), "map of the conditions"),
        "similarity.png": (lambda: similarity(found), "how alike what they generate is"),
        "weights.png": (lambda: weights(found), "generated weights and the target's own start"),
        "tensor.png": (lambda: tensor(found, chosen), f"{chosen} of each condition"),
    }
    for title, (figure, what) in figures.items():
        figure().savefig(out / title, dpi=DPI)
        yield out / title, what
    moving = path(found, chosen, 0, 1, out / "path.gif")
    yield moving, f"{chosen} on the way from condition 0 to condition 1"
