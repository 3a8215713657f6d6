"""`hyperloom demo digits`: learn split digits in sequence, compare, plot, save and load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import sklearn  # noqa: F401  # pyright: ignore[reportUnusedImport]  # missing, it is said first
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hyperloom.recipes._frame.run import Run
from hyperloom.recipes.continual import plots, setup
from hyperloom.recipes.continual.data import Task, split_digits
from hyperloom.recipes.continual.report import as_json, table
from hyperloom.recipes.continual.sequence import Learner, Record, Training, learn_in_sequence

CHECKPOINT = "hypernetwork.safetensors"
STEPS = 400

_INTRODUCTION = (
    "[bold]Split digits[/bold]: five tasks in sequence, 0 or 1, then 2 or 3, up to 8 or 9. A "
    "learner sees the images of one task at a time, and never again those of an earlier one. "
    "Task-incremental: it is known which task an image belongs to, and every main network has "
    "the same two outputs for all tasks.\n\n"
    "  hypernetwork               generates one for each task, and protects old ones\n"
    "  hypernetwork, unprotected  the same without the regulariser that protects\n"
    "  fine-tuning                one for all tasks in turn; it is not told the task\n"
    "  separate networks          one for each task: the upper bound\n"
)


def demo(run: Run) -> None:
    """Run the demo; it has failed if the checkpoint, read back, does other than what was saved.

    Raises:
        ImportError: The backend's framework is not installed.
    """
    recipe = run.backend_of(__package__ or "")
    training = Training(steps=run.steps or STEPS, seed=run.seed)
    run.introduce(_INTRODUCTION)
    tasks = split_digits()
    with recipe.one_thread():
        learners = recipe.digits_learners(training)
        records = _learn_all(learners, tasks, run.console)
        learner: Any = learners["hypernetwork"]
        layers = [learner.layers(i) for i in range(len(tasks))]
        plots.plot_accuracy(records, run.path("accuracy.png", "accuracy on each task over time"))
        plots.plot_weights(tasks, layers, run.path("weights.png", "generated weights as images"))
        across = _across(learner, tasks)
        drawn = run.path("conditions.png", "map of task embeddings; each network on each task")
        plots.plot_conditions(tasks, learner.embeddings(), across, drawn)
        same = _proof(recipe, learner, tasks, run.path(CHECKPOINT, "the checkpoint"))
    run.numbers.update(_numbers(training, records, same))
    run.failed = not same
    run.console.print(table(records))
    _conclude(run, records, same)


def _learn_all(
    learners: Mapping[str, Learner], tasks: tuple[Task, ...], console: Console
) -> dict[str, Record]:
    """Let every learner learn all tasks, with a progress bar for each."""
    columns = (
        TextColumn("{task.description:<26}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[now]:<14}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bars = {
            name: progress.add_task(
                name, start=False, now="", total=len(tasks) * learner.training.steps
            )
            for name, learner in learners.items()
        }
        records = {}
        for name, learner in learners.items():
            progress.start_task(bars[name])

            def step(
                index: int, done: int, name: str = name, steps: int = learner.training.steps
            ) -> None:
                now = f"learns {tasks[index].name}"
                progress.update(bars[name], completed=index * steps + done, now=now)

            records[name] = learn_in_sequence(learner, tasks, on_step=step)
            progress.update(bars[name], now="done")
    return records


def _across(learner: Learner, tasks: tuple[Task, ...]) -> np.ndarray:
    """Return the accuracy of each task's network (rows) on each task's images, in percent."""
    return np.array(
        [
            [100 * np.mean(learner.predict(t.test.inputs, i) == t.test.targets) for t in tasks]
            for i in range(len(tasks))
        ]
    )


def _proof(recipe: Any, learner: Any, tasks: tuple[Task, ...], path: Path) -> bool:
    """Save, load, and compare what both say of every test image."""
    recipe.save(learner, path)
    again = recipe.load_digits_learner(path)
    return all(
        np.array_equal(learner.predict(t.test.inputs, i), again.predict(t.test.inputs, i))
        for i, t in enumerate(tasks)
    )


def _numbers(training: Training, records: Mapping[str, Record], same: bool) -> dict[str, Any]:
    """Return all that was measured, and all that is needed to measure it again."""
    return {
        "experiment": "split digits, task-incremental, five tasks of two classes",
        "data": "scikit-learn's digits, 8x8; 50 % train, 20 % validation, 30 % test (used here)",
        "units": {"accuracy": "percent", "forgotten": "points", "seconds": "s"},
        "tasks": list(next(iter(records.values())).tasks),
        "training": {**asdict(training), "optimizer": "Adam, new for each task"},
        "choices": setup.described(),
        "learners": {name: as_json(record) for name, record in records.items()},
        "checkpoint": {"file": CHECKPOINT, "same_predictions_when_loaded": same},
    }


def _conclude(run: Run, records: Mapping[str, Record], same: bool) -> None:
    """Say what came out, and what to do next."""
    file, backend = run.out / CHECKPOINT, run.backend
    ours, separate = records["hypernetwork"], records["separate networks"]
    kept = mean(ours.forgotten) <= 1
    verdict = "within 1 point" if kept else "[red]more than 1 point lost[/red]"
    lost = mean(records["fine-tuning"].forgotten)
    checked = "the same predictions" if same else "[red]OTHER predictions[/red]"
    lines = (
        "",
        f"- Hypernetwork: {_before_and_after(ours)}: {verdict}.",
        f"- Fine-tuning: {_before_and_after(records['fine-tuning'])}: {lost:.1f} points lost.",
        f"- The hypernetwork holds {len(ours.tasks)} networks in {ours.num_parameters:,} numbers, "
        f"separate ones {separate.num_parameters:,}.",
        f"- Saved, loaded and run again: {checked} on every test image.",
        "- Learning rate, strength and sizes were chosen on other images than these.",
        "",
        "Next:",
        f"  hyperloom inspect {file}",
        "or, in Python:",
        f"  import hyperloom.{backend} as hl",
        f"  from hyperloom.recipes.continual.{backend} import digits_network",
        "",
        f'  hnet = hl.load("{file.as_posix()}", digits_network())',
        "  net = hnet.instantiate(3)  # a plain module that tells 6 from 7",
    )
    run.console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _before_and_after(record: Record) -> str:
    right, final = mean(record.right_after), mean(record.final)
    return f"{right:.1f} % right after, {final:.1f} % at the end"
