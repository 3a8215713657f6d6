"""Figures of conditions and of what they generate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperloom._core.errors import did_you_mean, message
from hyperloom._core.plan.plan import Plan
from hyperloom.plot._draw import neighbours
from hyperloom.plot._draw.saved import Source, source
from hyperloom.plot._draw.sheet import Sheet

MOST_LABELS = 24
MOST_VALUES = 12
MOST_IMAGES = 16
MOST_TENSORS = 12
BINS = 60


def batch(found: Source, conditions: Any) -> Any:
    """Return the conditions to draw: those given, or all ids that there are."""
    if conditions is not None:
        return conditions
    if found.plan.num_ids is None:
        got = f"none, and {found.plan.condition} has no ids"
        raise ValueError(message("conditions", got, "a batch of conditions"))
    return range(found.plan.num_ids)


def names(labels: Sequence[str] | None, conditions: Any, num: int) -> list[str]:
    """Return a name for each condition."""
    if labels is None:
        plain = isinstance(conditions, (range, list)) and all(type(c) is int for c in conditions)
        return [str(c) for c in conditions] if plain else [str(i) for i in range(num)]
    if len(labels) != num:
        raise ValueError(message("labels", f"{len(labels)} labels", f"{num}, one a condition"))
    return list(labels)


def known(plan: Plan, name: str) -> str:
    """Return the name of a generated tensor; raise for another."""
    generated = [entry.tensor for entry in plan.entries]
    if name not in generated:
        way_out = did_you_mean(name, generated)
        raise ValueError(message("name", repr(name), "the name of a generated tensor", way_out))
    return name


def conditions(
    hnet: Any,
    conditions: Any = None,
    *,
    labels: Sequence[str] | None = None,
    umap: bool | None = None,
) -> Figure:
    """Draw a map of conditions: their vectors on the two axes of largest variance (PCA).

    Beside it stands UMAP's map, if umap-learn is installed: PCA keeps distances, UMAP keeps
    neighbours (McInnes, Healy and Melville, 2018).

    Args:
        hnet: A `HyperNetwork`, or the path of a checkpoint.
        conditions: Raw value of a batch of conditions. Default: all ids.
        labels: A name for each.
        umap: Whether to draw UMAP's map too. By default where umap-learn is installed and there
            are 16 conditions or more: fewer have no neighbourhoods that a map could keep.

    Returns:
        The figure; an axis of PCA says which part of the variance it shows.

    Raises:
        ModuleNotFoundError: `umap=True` without umap-learn.
        ValueError: No conditions and no ids, fewer than two conditions (four for UMAP), or another
            number of labels.
    """
    found = source(hnet)
    chosen = batch(found, conditions)
    vectors = found.encode(chosen)
    titles = names(labels, chosen, len(vectors))
    with_umap = neighbours.wanted(umap, len(vectors))
    least = neighbours.LEAST if with_umap else 2
    if len(vectors) < least:
        got, wanted = f"{len(vectors)} conditions", f"{least} or more"
        raise ValueError(message("conditions", got, wanted))
    figure = Sheet(figsize=(11.2 if with_umap else 6.0, 5.4), layout="constrained")
    panels = figure.subplots(1, 1 + with_umap, squeeze=False)[0]
    places, shares = _principal(vectors)
    _map(panels[0], places, titles)
    panels[0].axhline(0, color="0.85", zorder=0)
    panels[0].axvline(0, color="0.85", zorder=0)
    panels[0].set_xlabel(f"first principal component ({shares[0]:.0%} of the variance)")
    panels[0].set_ylabel(f"second ({shares[1]:.0%})")
    if with_umap:
        _map(panels[1], neighbours.places(vectors), titles)
        panels[1].set_xlabel("UMAP: who is near whom")
    figure.suptitle(f"{len(vectors)} conditions of width {vectors.shape[1]}")
    return figure


def _principal(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return places `(n, 2)` on the axes of largest variance, and the part that each axis shows."""
    centred = vectors - vectors.mean(0)
    _, sizes, axes_of = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(vectors), 2))
    found_axes = (centred @ axes_of.T)[:, :2]
    places[:, : found_axes.shape[1]] = found_axes
    return places, np.append(sizes**2, [0.0, 0.0]) / max(float((sizes**2).sum()), 1e-30)


def _map(axes: Axes, places: np.ndarray, titles: Sequence[str]) -> None:
    axes.scatter(*places.T, c=np.arange(len(places)), cmap="viridis", s=70)
    if len(places) <= MOST_LABELS:
        for title, place in zip(titles, places, strict=True):
            axes.annotate(title, (place[0], place[1]), xytext=(5, 6), textcoords="offset points")
    axes.margins(0.15)


def similarity(hnet: Any, conditions: Any = None, *, labels: Sequence[str] | None = None) -> Figure:
    """Draw how alike the generated weights of conditions are.

    The cosine of the angle between what two conditions generate, each less the mean over all
    conditions: 1 is the same, 0 unrelated, −1 opposite.

    Args:
        hnet: As of `conditions`.
        conditions: As of `conditions`.
        labels: As of `conditions`.

    Raises:
        ValueError: As `conditions`.
    """
    found = source(hnet)
    chosen = batch(found, conditions)
    flat = np.concatenate([v.reshape(len(v), -1) for v in found.generate(chosen).values()], 1)
    if len(flat) < 2:
        raise ValueError(message("conditions", f"{len(flat)} condition", "two or more"))
    titles = names(labels, chosen, len(flat))
    centred = flat - flat.mean(0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.maximum(lengths, 1e-30)
    cosines = unit @ unit.T
    figure = Sheet(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(image, label="cosine, less the mean over conditions")
    if len(flat) <= MOST_LABELS:
        axes.set_xticks(range(len(flat)), titles, rotation=45 if max(map(len, titles)) > 3 else 0)
        axes.set_yticks(range(len(flat)), titles)
    if len(flat) <= MOST_VALUES:
        for i, j in np.ndindex(*cosines.shape):
            ink = "white" if abs(cosines[i, j]) > 0.6 else "black"
            axes.text(j, i, f"{cosines[i, j]:.2f}", ha="center", va="center", color=ink, size=8)
    axes.set_title("Generated weights: how alike conditions are")
    return figure


def tensor(
    hnet: Any, name: str, conditions: Any = None, *, labels: Sequence[str] | None = None
) -> Figure:
    """Draw one generated tensor as an image for each condition, all in one scale.

    Args:
        hnet: As of `conditions`.
        name: Name of the tensor. Its first axis is down, all others are across.
        conditions: As of `conditions`; the first 16 are drawn.
        labels: As of `conditions`.

    Raises:
        ValueError: As `conditions`; or no such tensor.
    """
    found = source(hnet)
    known(found.plan, name)
    chosen = batch(found, conditions)
    values = found.generate(chosen)[name]
    titles = names(labels, chosen, len(values))[:MOST_IMAGES]
    images = matrices(values[:MOST_IMAGES])
    across = math.ceil(math.sqrt(len(images)))
    down = math.ceil(len(images) / across)
    figure = Sheet(figsize=(2.3 * across + 0.8, 2.2 * down + 0.6), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    top = float(np.quantile(np.abs(images), 0.995)) or 1.0
    for axes, title, image in zip(panels, titles, images, strict=False):
        axes.imshow(image, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
        axes.set_title(title, size=9)
    figure.colorbar(panels[0].images[0], ax=panels.tolist())
    for axes in panels:
        axes.set_axis_off()
    figure.suptitle(f"{name} of each condition")
    return figure


def matrices(values: np.ndarray) -> np.ndarray:
    """Return tensors `(B, *shape)` as images: the first axis down, all others across."""
    rows = values.shape[1] if values.ndim > 2 else 1
    return values.reshape(len(values), rows, -1)


def weights(
    hnet: Any,
    conditions: Any = None,
    *,
    native: Mapping[str, Any] | None = None,
) -> Figure:
    """Draw generated tensors beside the target's own start: histograms, and singular values.

    Args:
        hnet: As of `conditions`.
        conditions: As of `conditions`.
        native: The target's own tensors by name, such as `dict(target.named_parameters())`.
            Default: Gaussian draws with the mean and spread that the plan knows of the target's
            initialisation.

    Raises:
        ValueError: As `conditions`.
    """
    found = source(hnet)
    generated = found.generate(batch(found, conditions))
    shown = sorted(generated, key=lambda name: -generated[name][0].size)[:MOST_TENSORS]
    shown = [name for name in generated if name in shown]
    figure = Sheet(figsize=(9.5, 2.1 * len(shown) + 0.8), layout="constrained")
    panels = figure.subplots(len(shown), 2, squeeze=False)
    for (left, right), name in zip(panels, shown, strict=True):
        values = generated[name]
        own = _own(found.plan, name, native)
        _histogram(left, values, own)
        left.set_title(f"{name} {'x'.join(map(str, values.shape[1:]))}", loc="left", size=9)
        _spectrum(right, values, own)
    panels[0, 0].legend(fontsize=8)
    panels[-1, 0].set_xlabel("value")
    panels[0, 1].set_title("singular values, by rank", size=9)
    figure.suptitle("Generated weights and the target's own start")
    return figure


def _own(plan: Plan, name: str, native: Mapping[str, Any] | None) -> np.ndarray:
    """Return the target's own tensor, or draws like it."""
    if native is not None and name in native:
        value = native[name]
        value = value.detach().cpu().double() if hasattr(value, "detach") else value
        return np.asarray(value, np.float64)
    spec = plan.spec[name]
    return np.random.RandomState(0).normal(spec.mean, max(spec.std, 1e-12), spec.shape)


def _histogram(axes: Axes, values: np.ndarray, own: np.ndarray) -> None:
    ends = np.quantile(np.concatenate([values.ravel(), own.ravel()]), [0.002, 0.998])
    edges = np.linspace(ends[0], max(ends[1], ends[0] + 1e-9), BINS)
    axes.hist(own.ravel(), edges, density=True, color="0.75", label="the target's own start")
    axes.hist(values.ravel(), edges, density=True, histtype="step", color="C0", label="generated")
    axes.set_yticks([])


def _spectrum(axes: Axes, values: np.ndarray, own: np.ndarray) -> None:
    """Draw singular values of each condition's matrix; nothing for a vector."""
    if own.ndim < 2:
        axes.set_axis_off()
        return
    for matrix in matrices(values)[:MOST_IMAGES]:
        axes.plot(np.linalg.svd(matrix, compute_uv=False), color="C0", alpha=0.5, linewidth=1)
    axes.plot(np.linalg.svd(matrices(own[None])[0], compute_uv=False), color="0.5", linewidth=2)
    axes.set_ylim(bottom=0)
