"""What every learner refuses, whatever its framework."""

from __future__ import annotations

from typing import Any

from hyperloom import Embedding
from hyperloom._core.errors import message
from hyperloom._core.plan.plan import Plan


def check_hypernetwork(plan: Plan, num_tasks: int) -> None:
    """Raise `ValueError` for a hypernetwork without ids, or with fewer than `num_tasks`."""
    ids = plan.num_ids
    if not isinstance(plan.condition, Embedding) or ids is None:
        wanted = "a hypernetwork with condition=Embedding(num, dim), an id for each task"
        raise ValueError(message("hnet", f"the condition {plan.condition}", wanted))
    if not 0 <= num_tasks <= ids:
        raise ValueError(message("num_tasks", num_tasks, f"0 to {ids}, the ids there are"))


def check_examples(inputs: Any, targets: Any) -> None:
    """Raise `ValueError` for no examples, or not one target for each."""
    if inputs.ndim == 0 or len(inputs) == 0:
        raise ValueError(message("inputs", f"shape {tuple(inputs.shape)}", "at least one example"))
    if targets.ndim == 0 or len(targets) != len(inputs):
        got = f"shape {tuple(targets.shape)} beside {len(inputs)} inputs"
        raise ValueError(message("targets", got, "one for each input"))


def check_task(task: int, num_tasks: int) -> None:
    """Raise `IndexError` for a task that is not learned."""
    if not 0 <= task < num_tasks:
        raise IndexError(message("task", task, f"one of the {num_tasks} tasks learned so far"))
