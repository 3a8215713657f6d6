"""Learning tasks in sequence, and what is measured on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from hyperloom._core.errors import finite_float, message, positive_int
from hyperloom.recipes.continual.data import Part, Task


@dataclass(frozen=True)
class Training:
    """How long and how fast a learner learns one task. The optimiser is Adam, new for each task.

    Args:
        steps: Steps for each task. Default 400.
        batch_size: Examples in a step, drawn with replacement. Default 32.
        learning_rate: That of a plain network; a hypernetwork's follow by `param_groups`.
            Default 0.03.
        seed: Of the draws of batches. Default 0.

    Raises:
        TypeError: A number of the wrong kind.
        ValueError: `steps` or `batch_size` below 1, or a negative learning rate.
    """

    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 3e-2
    seed: int = 0

    def __post_init__(self) -> None:
        positive_int("Training(steps=)", self.steps)
        positive_int("Training(batch_size=)", self.batch_size)
        finite_float("Training(learning_rate=)", self.learning_rate, least=0.0)
        positive_int("Training(seed=)", self.seed, least=0)


class Learner(Protocol):
    """What learns tasks one after the other; arrays in, arrays out, whatever the framework."""

    @property
    def training(self) -> Training:
        """How it trains."""
        ...

    @property
    def num_parameters(self) -> int:
        """Numbers that it keeps for the tasks learned so far."""
        ...

    def learn(
        self, inputs: Any, targets: Any, *, on_step: Callable[[int], None] | None = None
    ) -> int:
        """Learn the next task from its examples alone; return its id: 0, 1, 2, ...

        `on_step` is called with the number of steps done, once or more often, the last time with
        all of them. The learner can `predict` then.
        """
        ...

    def predict(self, inputs: Any, task: int) -> np.ndarray:
        """Return the class `(num,)` of each input, which is known to belong to `task`."""
        ...


@dataclass(frozen=True)
class Record:
    """How well each task was done, all the way.

    Attributes:
        tasks: Names of the tasks.
        times: When it was measured, in tasks: 1.5 is in the middle of the second task.
        accuracy: At each time, the accuracy in percent on each task begun by then.
        seconds: How long the learning took, without the measuring.
        num_parameters: Numbers that the learner keeps in the end.
    """

    tasks: tuple[str, ...]
    times: list[float] = field(default_factory=list)
    accuracy: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    num_parameters: int = 0

    @property
    def right_after(self) -> list[float]:
        """Accuracy on each task right after it was learned, in percent."""
        return [self.accuracy[self.times.index(i + 1)][i] for i in range(len(self.tasks))]

    @property
    def final(self) -> list[float]:
        """Accuracy on each task after the last one was learned, in percent."""
        return list(self.accuracy[-1])

    @property
    def forgotten(self) -> list[float]:
        """`right_after - final` of each task, in points; 0 for the last one."""
        return [a - b for a, b in zip(self.right_after, self.final, strict=True)]


def accuracy(learner: Learner, part: Part, task: int) -> float:
    """Return the accuracy in percent of a learner on examples of a task."""
    return 100 * float(np.mean(learner.predict(part.inputs, task) == part.targets))


def learn_in_sequence(
    learner: Learner,
    tasks: Sequence[Task],
    *,
    part: Literal["validation", "test"] = "test",
    checks: int = 10,
    on_step: Callable[[int, int], None] | None = None,
) -> Record:
    """Let a learner learn the tasks one after the other, and measure it on all tasks so far.

    Args:
        learner: The learner, new: it has learned nothing.
        tasks: The tasks; only their `train` parts are shown to it.
        part: What to measure on: `"test"` (default), or `"validation"` to choose settings.
        checks: Measure this often while a task is learned. Default 10.
        on_step: Called with the task's index and the number of steps done.

    Returns:
        The accuracies over time.

    Raises:
        ValueError: No tasks, `checks` below 1, or a learner that has learned something already.
    """
    if not tasks:
        raise ValueError(message("tasks", "none", "at least one task"))
    positive_int("checks", checks)
    times: list[float] = []
    measured: list[list[float]] = []
    steps, seconds = learner.training.steps, 0.0

    def measure(task: int, done: int) -> float:
        """Measure if it is time to; return how long it took."""
        start = time.perf_counter()
        last = times[-1] if times else 0.0
        if done == steps or task + done / steps - max(last, task) >= 1 / checks - 1e-9:
            times.append(task + 1 if done == steps else task + done / steps)
            seen = [getattr(t, part) for t in tasks[: task + 1]]
            measured.append([accuracy(learner, p, i) for i, p in enumerate(seen)])
        return time.perf_counter() - start

    for index, task in enumerate(tasks):

        def step(done: int, index: int = index) -> None:
            nonlocal seconds
            seconds -= measure(index, done)
            if on_step is not None:
                on_step(index, done)

        start = time.perf_counter()
        learned = learner.learn(task.train.inputs, task.train.targets, on_step=step)
        seconds += time.perf_counter() - start
        if learned != index:
            got = f"one that gave task {index} the id {learned}"
            raise ValueError(message("learner", got, "a new one, which has learned nothing"))
    names = tuple(task.name for task in tasks)
    return Record(names, times, measured, seconds, learner.num_parameters)
