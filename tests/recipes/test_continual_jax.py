"""The recipe of continual learning on JAX: the same results as on PyTorch, in small."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

import hyperloom.jax as hl
from hyperloom.recipes._frame.run import NUMBERS, Run, running
from hyperloom.recipes.continual import (
    Record,
    Task,
    Training,
    demo,
    learn_in_sequence,
    split_digits,
)
from hyperloom.recipes.continual.demo import CHECKPOINT
from hyperloom.recipes.continual.jax import (
    ContinualLearner,
    FineTuning,
    digits_hypernetwork,
    digits_learners,
    digits_network,
    load_digits_learner,
    save,
)


@pytest.fixture(scope="module")
def tasks() -> tuple[Task, ...]:
    return split_digits()


@pytest.fixture(scope="module")
def learners() -> dict[str, Any]:
    made = digits_learners(Training(steps=100))
    return {name: made[name] for name in ("hypernetwork", "fine-tuning")}


@pytest.fixture(scope="module")
def records(learners: dict[str, Any], tasks: tuple[Task, ...]) -> dict[str, Record]:
    return {n: learn_in_sequence(lr, tasks[:2], checks=2) for n, lr in learners.items()}


def test_the_hypernetwork_learns_and_does_not_forget(records: dict[str, Record]) -> None:
    for record in records.values():
        assert min(record.right_after) > 93
    assert records["hypernetwork"].forgotten[0] <= 1
    assert min(records["hypernetwork"].final) > 93


def test_without_protection_the_first_task_is_forgotten(records: dict[str, Record]) -> None:
    assert records["fine-tuning"].forgotten[0] > 5


def test_the_numbers_kept_are_those_of_torch(records: dict[str, Record]) -> None:
    main = 64 * 64 + 64 + 64 * 32 + 32 + 32 * 2 + 2
    assert records["fine-tuning"].num_parameters == main


def test_a_learner_comes_back_from_its_checkpoint(
    learners: dict[str, Any], records: dict[str, Record], tasks: tuple[Task, ...], tmp_path: Path
) -> None:
    assert records
    learner = learners["hypernetwork"]
    save(learner, tmp_path / "learner.safetensors")
    again = load_digits_learner(tmp_path / "learner.safetensors")
    assert again.num_tasks == 2
    for i, task in enumerate(tasks[:2]):
        x = task.test.inputs
        np.testing.assert_array_equal(learner.predict(x, i), again.predict(x, i))
        np.testing.assert_array_equal(learner.embeddings(), again.embeddings())
        shapes = [(w.shape, b.shape) for w, b in learner.layers(i)]
        assert shapes == [((64, 64), (64,)), ((32, 64), (32,)), ((2, 32), (2,))]


def test_learners_refuse_what_they_cannot_use(tasks: tuple[Task, ...]) -> None:
    rngs = nnx.Rngs(0)
    by_vector = hl.HyperNetwork(digits_network(), condition=hl.Vector(3), rngs=rngs)
    with pytest.raises(ValueError, match=r"hnet: got the condition Vector\(3\); wanted a hypern"):
        ContinualLearner(by_vector, None)
    hnet = digits_hypernetwork(digits_network())
    with pytest.raises(ValueError, match="num_tasks: got 2; wanted 0 to 1, the ids there are"):
        ContinualLearner(hnet, None, num_tasks=2)
    learner = ContinualLearner(hnet, None, training=Training(steps=1))
    with pytest.raises(IndexError, match="task: got 0; wanted one of the 0 tasks learned so far"):
        learner.predict(tasks[0].test.inputs, 0)
    with pytest.raises(ValueError, match=r"inputs: got shape \(0, 64\); wanted at least one"):
        learner.learn(np.zeros((0, 64), np.float32), [])
    plain = FineTuning(digits_network(), training=Training(steps=1))
    with pytest.raises(ValueError, match=r"targets: got shape \(1,\) beside 2 inputs; wanted one"):
        plain.learn(np.zeros((2, 64), np.float32), np.zeros(1, int))


def test_the_demo_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two tasks of the five: each task of a hypernetwork is compiled anew, as it adds an id.
    monkeypatch.setattr(demo, "split_digits", lambda: split_digits()[:2])
    out = io.StringIO()
    run = Run("digits", tmp_path, Console(file=out, width=80), steps=2, backend="jax")
    with running(run):
        demo.demo(run)
    assert not run.failed
    files = {"accuracy.png", "weights.png", "conditions.png", CHECKPOINT, NUMBERS}
    assert {path.name for path in tmp_path.iterdir()} == files
    numbers = json.loads((tmp_path / NUMBERS).read_text("utf-8"))
    assert numbers["checkpoint"]["same_predictions_when_loaded"]
    assert numbers["versions"]["jax"] == jax.__version__
    assert "import hyperloom.jax as hl" in out.getvalue()
    hnet = hl.load(tmp_path / CHECKPOINT, digits_network())
    assert hnet(jnp.zeros((3, 64)), condition=1).shape == (3, 2)
