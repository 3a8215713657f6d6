"""The demo's figures. Drawn into files only: no window, no state of pyplot's is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperloom.recipes.continual.data import SIDE, Task
from hyperloom.recipes.continual.sequence import Record

Layers = Sequence[tuple[np.ndarray, np.ndarray]]

_COLOURS = [colormaps["tab10"](i) for i in (0, 1, 2, 3, 4)]
_CHANCE = 50.0
_UNITS = 8
_DPI = 130


def plot_accuracy(records: Mapping[str, Record], path: Path) -> None:
    """Draw the accuracy of each task over time, a panel for each learner.

    Args:
        records: What was measured, by the learner's name.
        path: The PNG to write.
    """
    figure = Figure(figsize=(11, 2.15 * len(records) + 1.2), layout="constrained")
    panels = figure.subplots(len(records), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, record) in zip(panels, records.items(), strict=True):
        _accuracy_panel(axes, name, record)
    tasks = next(iter(records.values())).tasks
    middles = [i + 0.5 for i in range(len(tasks))]
    panels[-1].set_xticks(middles, [f"learning {task}" for task in tasks])
    panels[-1].set_xlabel("time: the tasks are learned one after the other")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", title="test images of")
    figure.suptitle("Accuracy on each task while tasks are learned in sequence", fontsize=13)
    figure.savefig(path, dpi=_DPI)


def _accuracy_panel(axes: Axes, name: str, record: Record) -> None:
    num = len(record.tasks)
    for i, task in enumerate(record.tasks):
        known = [
            (t, row[i]) for t, row in zip(record.times, record.accuracy, strict=True) if row[i:]
        ]
        axes.plot(
            *zip(*known, strict=True), color=_COLOURS[i % len(_COLOURS)], label=task, linewidth=1.8
        )
        if i % 2:
            axes.axvspan(i, i + 1, color="0.95", zorder=0)
    axes.axhline(_CHANCE, color="0.5", linestyle=":", linewidth=1)
    axes.text(0.02, _CHANCE + 3, "chance", color="0.4", fontsize=8)
    axes.set(xlim=(0, num), ylim=(0, 106), yticks=(0, 50, 100), ylabel="accuracy, %")
    axes.tick_params(axis="x", length=0)
    end = np.mean(record.final)
    axes.set_title(f"{name}: {end:.1f} % on average at the end", loc="left", fontsize=11)


def plot_weights(tasks: Sequence[Task], layers: Sequence[Layers], path: Path) -> None:
    """Draw the generated weights as images: a row for each task.

    Args:
        tasks: The tasks.
        layers: For each task the generated `(weight (out, in), bias)` of each layer.
        path: The PNG to write.
    """
    first = np.stack([network[0][0] for network in layers])
    # Each task in its own scale: one that trains to large weights would hide the others. A few
    # weights are much larger than the rest; they would make all others look white.
    tops = np.quantile(np.abs(first), 0.995, axis=(1, 2))
    strength = (np.square(first).mean(2) / np.square(tops)[:, None]).mean(0)
    units = np.sort(np.argsort(-strength, kind="stable")[:_UNITS])
    figure = Figure(figsize=(13.5, 1.12 * len(tasks) + 1.7), layout="constrained")
    gap = 0.18
    widths = (1, 1, gap, 1, gap, *[1] * len(units))
    panels = figure.subplots(len(tasks), len(widths), squeeze=False, width_ratios=widths)
    for row, task, network, filters, top in zip(
        panels, tasks, layers, first[:, units], tops, strict=True
    ):
        for axes, label in zip(row, (0, 1), strict=False):
            _image(axes, task.train.inputs[task.train.targets == label].mean(0), "gray_r")
        row[0].set_ylabel(f"task {task.name}", fontsize=11)
        evidence = _evidence(network, task.test.inputs)
        _image(row[3], evidence, "RdBu_r", float(np.abs(evidence).max()))
        for axes, image in zip(row[5:], filters, strict=True):
            _image(axes, image, "RdBu_r", float(top))
        row[-1].yaxis.set_label_position("right")
        row[-1].set_ylabel(f"full colour:\n± {top:.2g}", rotation=0, ha="left", va="center")
        for axes in (row[2], row[4]):
            axes.set_axis_off()
    titles = ["mean of\nfirst digit", "mean of\nsecond digit", "", "red: speaks\nfor second", ""]
    for axes, title in zip(panels[0], [*titles, *(f"unit {i}" for i in units)], strict=True):
        axes.set_title(title, fontsize=9)
    figure.suptitle(
        f"{len(tasks)} networks from one hypernetwork. Left: the digits; middle: which pixels "
        "the network of the task looks at;\n"
        "right: its first layer, the same hidden units for each task (red +, blue −)",
        fontsize=12,
    )
    figure.savefig(path, dpi=_DPI)


def _image(axes: Axes, pixels: np.ndarray, colours: str, limit: float | None = None) -> None:
    """Draw an 8x8 image, in 0..1 or, with a limit, centred on zero."""
    low, high = (0.0, 1.0) if limit is None else (-limit, limit)
    axes.set(xticks=(), yticks=())
    axes.imshow(pixels.reshape(SIDE, SIDE), colours, vmin=low, vmax=high)


def _evidence(layers: Layers, inputs: np.ndarray) -> np.ndarray:
    """Return what each pixel contributes to the second output less the first, `(64,)`.

    The mean slope over the inputs, times the pixel's standard deviation: a pixel that is never
    lit contributes nothing, whatever its weights are.
    """
    x, active = inputs, []
    for weight, bias in layers[:-1]:
        x = x @ weight.T + bias
        active.append(x > 0)
        x = x * active[-1]
    last = layers[-1][0]
    back = np.broadcast_to(last[1] - last[0], (len(inputs), last.shape[1]))
    for (weight, _), on in zip(layers[-2::-1], active[::-1], strict=True):
        back = (back * on) @ weight
    return back.mean(0) * inputs.std(0)


def plot_conditions(
    tasks: Sequence[Task], embeddings: np.ndarray, across: np.ndarray, path: Path
) -> None:
    """Draw the map of conditions, and what each condition's network does on each task.

    Args:
        tasks: The tasks.
        embeddings: Their condition vectors, `(num_tasks, dim)`.
        across: Accuracy in percent of the network of one task (row) on the images of another.
        path: The PNG to write.
    """
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [task.name for task in tasks]
    spot = _map(left, embeddings)
    _matrix(right, names, across, figure)
    figure.suptitle("Conditions: where they are, and what they generate", fontsize=13)
    figure.draw_without_rendering()  # the layout is settled now: labels can look for room
    _label(left, names, spot)
    figure.savefig(path, dpi=_DPI)


def _map(axes: Axes, embeddings: np.ndarray) -> np.ndarray:
    """Draw the first two principal components; return them, `(num_tasks, 2)`."""
    num, dim = embeddings.shape
    centred = embeddings - embeddings.mean(0)
    _, size, directions = np.linalg.svd(centred, full_matrices=False)
    spot = centred @ directions[:2].T
    share = 100 * size**2 / max(float((size**2).sum()), 1e-12)
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(num)]
    axes.scatter(*spot.T, s=140, color=colours, zorder=3)
    axes.axhline(0, color="0.85", zorder=0)
    axes.axvline(0, color="0.85", zorder=0)
    low, high = spot.min(0), spot.max(0)
    middle, half = (low + high) / 2, 0.68 * max(float((high - low).max()), 1e-6)
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
    axes.set_aspect("equal")
    axes.set_xlabel(f"first principal component ({share[0]:.0f} % of the variance)")
    axes.set_ylabel(f"second principal component ({share[1]:.0f} %)")
    axes.set_title(f"Map of the {num} learned task embeddings (width {dim})", fontsize=11)
    return spot


def _label(axes: Axes, names: Sequence[str], spot: np.ndarray) -> None:
    """Write each point's name beside it, on the side where most room is."""
    points = axes.transData.transform(spot) * 72 / axes.figure.get_figure(root=True).dpi
    angles = np.pi * (0.5 + np.arange(8) / 4)
    sides = 20 * np.stack([np.cos(angles), np.sin(angles)], -1)
    taken = points
    for i, name in enumerate(names):
        others = np.delete(taken, i, axis=0)
        room = [np.min(np.linalg.norm(points[i] + s - others, axis=-1), initial=99) for s in sides]
        # Equal room, as for a point by itself: the first side, above.
        side = sides[int(np.argmax(np.minimum(room, 45)))]
        taken = np.concatenate([taken, [points[i] + side]])
        axes.annotate(
            name, spot[i], side, textcoords="offset points", ha="center", va="center", fontsize=12
        )


def _matrix(axes: Axes, names: Sequence[str], across: np.ndarray, figure: Figure) -> None:
    shown = axes.imshow(across, "viridis", vmin=0, vmax=100)
    for (i, j), value in np.ndenumerate(across):
        colour = "white" if value < 60 else "black"
        weight = "bold" if i == j else "normal"
        axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, fontweight=weight)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="test images of task", ylabel="network generated for task")
    axes.set_title("Accuracy of each network on each task, % (50 is chance)", fontsize=11)
    figure.colorbar(shown, ax=axes, shrink=0.85, label="accuracy, %")
