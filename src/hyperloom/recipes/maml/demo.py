"""`hyperloom demo maml`: starts from ten points and a step from there, beside one start for all."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hyperloom.recipes._frame.measure import Side, lines_of, ms_of
from hyperloom.recipes._frame.run import Run
from hyperloom.recipes.maml.data import Tasks, stream, unseen

STEPS, OUTER_RATE = 2000, 3e-3
PUBLISHED = 0.77  # Li et al. 2017 (Meta-SGD), table 1: MAML trained and tested with ten points
AFTER = (0, 1, 2, 5, 10)
_INTRODUCTION = (
    "[bold]A start for gradient descent, generated[/bold] from ten points of a sine, so that one "
    "step on these points fits it; beside it one start for all sines (MAML), and no step at all."
)
# What is trained: a kind of model, and the inner steps it is trained with.
CONTESTANTS = {
    "start generated, 1 step": ("generated", 1),
    "generated, no step": ("generated", 0),
    "one start, 1 step (MAML)": ("one start", 1),
}


def demo(run: Run) -> None:
    """Run the recipe."""
    run.introduce(_INTRODUCTION)
    recipe: Any = import_module(f"{__package__}.on_{run.backend}")
    test = unseen()
    run.settings(steps=STEPS, outer_rate=OUTER_RATE, inner_rate=recipe.RATE, tasks=len(test.x))
    models = recipe.models(run.seed)
    difference = recipe.difference(models["generated"], models["by hand"], test)
    errors: dict[str, dict[int, np.ndarray]] = {}
    steps = {}
    trained = {}
    for name, (kind, inner) in CONTESTANTS.items():
        model = recipe.copy_of(models[kind])
        step, tasks = recipe.step_of(model, OUTER_RATE, inner), stream(run.seed)
        for i in run.train(name, STEPS):
            loss = step(*recipe.given(next(tasks)))
            if i % 100 == 0:
                run.now(f"error {float(loss):.3f}")
        errors[name] = {n: recipe.error_after(model, *recipe.given(test), n) for n in AFTER}
        steps[name], trained[name] = step, model
    _report(run, errors, {name: recipe.size_of(model) for name, model in trained.items()})
    batch = recipe.given(next(stream(1)))
    by_hand = recipe.step_of(models["by hand"], OUTER_RATE, 1)
    both = {"hyperloom": steps["start generated, 1 step"], "by hand": by_hand}
    ms = ms_of({name: lambda s=step: float(s(*batch)) for name, step in both.items()})
    lines = {"hyperloom": recipe.OURS, "by hand": recipe.HAND}
    sides = {name: Side(lines_of(*lines[name]), value) for name, value in ms.items()}
    one = errors["start generated, 1 step"][1].mean()
    run.beside(difference, sides, {"error after 1 step": float(one)})
    _picture(run, recipe, trained, test, errors)
    run.checkpoint(recipe.hl, trained["start generated, 1 step"].hnet)


def _report(run: Run, errors: dict[str, dict[int, np.ndarray]], sizes: dict[str, int]) -> None:
    """Print the errors, and say whether what was to be shown is so."""
    rows = {
        name: {f"{n} steps": float(value.mean()) for n, value in found.items()}
        | {"numbers": sizes[name]}
        for name, found in errors.items()
    }
    run.table("Squared error on sines not seen in training, after steps on ten points", rows)
    mine, maml = errors["start generated, 1 step"][1], errors["one start, 1 step (MAML)"][1]
    none = errors["generated, no step"][0]
    spread = 1.96 * mine.std() / len(mine) ** 0.5
    text = f"{mine.mean():.3f} ± {spread:.3f}"
    run.claim(
        f"after one step at or below published MAML's error, {PUBLISHED}",
        mine.mean() <= PUBLISHED,
        text,
    )
    run.claim(
        "below MAML's trained here alike, after one step",
        mine.mean() < maml.mean(),
        f"{text} against {maml.mean():.3f}",
    )
    run.claim(
        "the step helps: below the generator that was trained without one",
        mine.mean() < none.mean(),
        f"{text} against {none.mean():.3f}",
    )


def _picture(
    run: Run, recipe: Any, trained: dict[str, Any], test: Tasks, errors: dict[str, Any]
) -> None:
    """Draw three sines with the networks before and after a step, and errors over steps."""
    grid = np.broadcast_to(np.linspace(-5, 5, 200, dtype="float32")[:, None], (3, 200, 1))
    some = Tasks(*(part[:3] for part in test))
    figure = Figure((13, 5.4), layout="constrained")
    panels = figure.subplots(2, 4, width_ratios=(1, 1, 1, 1))
    for row, name in enumerate(("start generated, 1 step", "one start, 1 step (MAML)")):
        curves = {n: recipe.values_at(trained[name], some, grid, n) for n in (0, 1)}
        for i in range(3):
            axes = panels[row][i]
            order = np.argsort(some.query_x[i, :, 0])
            axes.plot(some.query_x[i, order, 0], some.query_y[i, order, 0], "k", lw=1, label="sine")
            axes.plot(grid[i, :, 0], curves[0][i, :, 0], ":", color="tab:red", label="start")
            axes.plot(grid[i, :, 0], curves[1][i, :, 0], color="tab:blue", label="after a step")
            axes.plot(some.x[i, :, 0], some.y[i, :, 0], "k^", ms=5)
            axes.set(title=name if i == 1 else "", ylim=(-5.5, 5.5))
        panels[row][0].legend(fontsize=8)
    axes = panels[0][3]
    for name, found in errors.items():
        axes.plot(AFTER, [found[n].mean() for n in AFTER], "o-", ms=3, label=name)
    axes.axhline(PUBLISHED, color="gray", ls="--", lw=1, label="MAML, published, 1 step")
    axes.set(yscale="log", xlabel="steps on ten points", title="squared error")
    panels[1][3].axis("off")
    panels[1][3].legend(*axes.get_legend_handles_labels(), loc="upper left", fontsize=8)
    run.figure("sines.png", figure, "three sines before and after a step, and errors over steps")
