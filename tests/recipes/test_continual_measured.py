"""Learning in sequence: what is measured on the way, and the table, file and figures of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hyperloom.recipes._frame.run import dumps
from hyperloom.recipes.continual import (
    Part,
    Task,
    Training,
    learn_in_sequence,
)
from hyperloom.recipes.continual.plots import _evidence
from hyperloom.recipes.continual.report import as_json, table
from hyperloom.recipes.continual.torch import (
    digits_network,
)

# ---- the loop --------------------------------------------------------------------------------


class Rote:
    """A learner without a framework: right on the last `memory` tasks, wrong on older ones."""

    def __init__(self, memory: int, calls: tuple[int, ...], steps: int = 20) -> None:
        self.training = Training(steps=steps)
        self.num_parameters = 7
        self.memory, self.calls, self.seen = memory, calls, 0

    def learn(
        self, inputs: Any, targets: Any, *, on_step: Callable[[int], None] | None = None
    ) -> int:
        self.seen += 1
        for done in self.calls:
            if on_step is not None:
                on_step(done)
        return self.seen - 1

    def predict(self, inputs: Any, task: int) -> np.ndarray:
        right = inputs[:, 0].astype(int)
        return right if task >= self.seen - self.memory else 1 - right


def rote_tasks(num: int) -> list[Task]:
    part = Part(np.array([[0.0], [1.0], [1.0]], "float32"), np.array([0, 1, 1]))
    return [Task(f"t{i}", (2 * i, 2 * i + 1), part, part, part) for i in range(num)]


def test_accuracy_is_measured_while_and_after_each_task() -> None:
    learner = Rote(memory=1, calls=tuple(range(1, 21)))
    heard: list[tuple[int, int]] = []
    record = learn_in_sequence(
        learner, rote_tasks(3), checks=4, on_step=lambda i, n: heard.append((i, n))
    )
    assert record.times == [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3]
    assert [len(row) for row in record.accuracy] == [1] * 4 + [2] * 4 + [3] * 4
    assert record.right_after == [100, 100, 100]
    assert record.final == [0, 0, 100]
    assert record.forgotten == [100, 100, 0]
    assert record.tasks == ("t0", "t1", "t2")
    assert record.num_parameters == 7
    assert record.seconds >= 0
    assert heard == [(i, n) for i in range(3) for n in range(1, 21)]


def test_a_learner_that_reports_once_is_measured_once() -> None:
    record = learn_in_sequence(Rote(memory=3, calls=(20,)), rote_tasks(2))
    assert record.times == [1, 2]
    assert record.final == [100, 100]


def test_more_checks_than_steps_measure_each_step() -> None:
    record = learn_in_sequence(Rote(3, calls=(1, 2, 3), steps=3), rote_tasks(1), checks=10)
    assert record.times == pytest.approx([1 / 3, 2 / 3, 1])


def test_a_learner_that_has_learned_is_refused() -> None:
    learner = Rote(1, calls=(20,))
    learn_in_sequence(learner, rote_tasks(1))
    with pytest.raises(
        ValueError, match="learner: got one that gave task 0 the id 1; wanted a new"
    ):
        learn_in_sequence(learner, rote_tasks(1))


def test_no_tasks_and_no_checks_are_refused() -> None:
    with pytest.raises(ValueError, match="tasks: got none; wanted at least one task"):
        learn_in_sequence(Rote(1, ()), [])
    with pytest.raises(ValueError, match="checks: got 0"):
        learn_in_sequence(Rote(1, ()), rote_tasks(1), checks=0)


# ---- table, JSON, figures --------------------------------------------------------------------


def test_the_table_fits_a_terminal_and_shows_every_number() -> None:
    from rich.console import Console

    record = learn_in_sequence(Rote(memory=1, calls=(20,)), rote_tasks(5))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table({"hypernetwork, unprotected": record}))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["hypernetwork,", "unprotected", "right", "after", *["100.0"] * 6] in lines
    assert ["7", "numbers", "at", "the", "end", *["0.0"] * 4, "100.0", "20.0"] in lines
    assert ["forgotten", *["100.0"] * 4, "0.0", "80.0"] in lines


def test_json_has_lists_of_numbers_on_one_line() -> None:
    record = learn_in_sequence(Rote(memory=1, calls=(10, 20)), rote_tasks(2))
    text = dumps(as_json(record))
    content = json.loads(text)
    assert content["mean_forgotten"] == 50
    assert content["over_time"]["tasks_learned"] == [0.5, 1, 1.5, 2]
    assert content["over_time"]["accuracy"] == record.accuracy
    assert '"forgotten": [ 100.0, 0.0 ]' in text


def test_the_evidence_of_a_pixel_is_the_gradient_times_its_spread() -> None:
    torch.manual_seed(0)
    network = digits_network((7, 5))
    values = [p.detach().numpy() for p in network.parameters()]
    layers = list(zip(values[::2], values[1::2], strict=True))
    x = torch.rand(9, 64, requires_grad=True)
    out = network(x)
    (slope,) = torch.autograd.grad((out[:, 1] - out[:, 0]).sum(), x)
    wanted = (slope.mean(0) * x.std(0, correction=0)).detach().numpy()
    np.testing.assert_allclose(_evidence(layers, x.detach().numpy()), wanted, rtol=1e-4, atol=1e-6)
