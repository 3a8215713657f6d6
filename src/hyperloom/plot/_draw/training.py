"""Figures of a training: what `doctor()` read layer by layer, and readings over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperloom._core.errors import a_kind, message
from hyperloom._core.reports.doctor import Report
from hyperloom.plot._draw.sheet import Sheet

LEAST = 1e-12


def layers(report: Report) -> Figure:
    """Draw what `doctor()` read, layer by layer, beside the template's own initialisation.

    Args:
        report: What `hnet.doctor(...)` returned.

    Returns:
        Three panels on a logarithmic scale: outputs of layers, gradients there, and generated
        tensors. Bars of one height say that the generated network is like the target's own.

    Raises:
        TypeError: Not a `Report`.
        ValueError: A report without readings, of a call that failed.
    """
    a_kind("report", report, Report, "what hnet.doctor(...) returned")
    read = report.readings
    if not read.layers and not read.tensors:
        raise ValueError(message("report", "one without readings", "that of a call that ran"))
    figure = Sheet(figsize=(11, 4.6), layout="constrained")
    one, two, three = figure.subplots(1, 3)
    titles = [x.name or "(all)" for x in read.layers]
    outputs = [x.activation for x in read.layers], [x.native_activation for x in read.layers]
    gradients = [x.gradient for x in read.layers], [x.native_gradient for x in read.layers]
    tensors = [x.rms for x in read.tensors], [x.native for x in read.tensors]
    _bars(one, titles, *outputs, "outputs of layers")
    _bars(two, titles, *gradients, "gradients of outputs")
    _bars(three, [x.name for x in read.tensors], *tensors, "generated tensors")
    one.legend(fontsize=8)
    figure.suptitle(f"doctor: {read.target}, {read.conditions} conditions, root mean squares")
    return figure


def _bars(
    axes: Axes, titles: list[str], ours: list[float], native: list[float], title: str
) -> None:
    places = np.arange(len(titles))
    axes.bar(places - 0.2, np.maximum(ours, LEAST), 0.4, label="generated")
    axes.bar(places + 0.2, np.maximum(native, LEAST), 0.4, color="0.7", label="native")
    positive = [value for value in (*ours, *native) if value > LEAST]
    if positive:
        axes.set_yscale("log")
        axes.set_ylim(min(positive) / 2, max(positive) * 2)
    axes.set_xticks(places, titles, rotation=60, ha="right", size=8)
    axes.set_title(title, size=10)


def curves(history: Sequence[Mapping[str, float]], *, steps: Sequence[int] | None = None) -> Figure:
    """Draw readings over time: a panel for each group of them.

    Args:
        history: A dict of `hl.readings(hnet)` for each time that it was taken.
        steps: The times. Default: 0, 1, 2 ...

    Raises:
        ValueError: No readings, or another number of steps.
    """
    if not history:
        raise ValueError(message("history", "no readings", "a dict of hl.readings for each time"))
    times = list(steps) if steps is not None else list(range(len(history)))
    if len(times) != len(history):
        raise ValueError(message("steps", f"{len(times)} steps", f"{len(history)}, one a reading"))
    groups: dict[str, list[str]] = {}
    for key in history[-1]:
        groups.setdefault(key.split("/")[0], []).append(key)
    figure = Sheet(figsize=(8, 2.4 * len(groups) + 0.5), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (group, keys) in zip(panels, groups.items(), strict=True):
        for key in keys[:10]:
            axes.plot(times, [r.get(key, np.nan) for r in history], label=key.partition("/")[2])
        axes.set_title(group, loc="left", size=10)
        axes.legend(fontsize=7)
    panels[-1].set_xlabel("step")
    return figure
