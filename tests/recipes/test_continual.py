"""The recipe of continual learning: its data and its learners."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hyperloom.torch as hl
from hyperloom.recipes.continual import (
    Learner,
    Record,
    Task,
    Training,
    learn_in_sequence,
    split_digits,
)
from hyperloom.recipes.continual.torch import (
    ContinualLearner,
    FineTuning,
    SeparateNetworks,
    digits_hypernetwork,
    digits_learners,
    digits_network,
    load_digits_learner,
    one_thread,
    save,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def tasks() -> tuple[Task, ...]:
    return split_digits()


# ---- data -----------------------------------------------------------------------------------


def test_split_digits_are_five_pairs_of_digits(tasks: tuple[Task, ...]) -> None:
    assert [task.name for task in tasks] == ["0/1", "2/3", "4/5", "6/7", "8/9"]
    assert [task.classes for task in tasks] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    for part in (p for task in tasks for p in (task.train, task.validation, task.test)):
        assert part.inputs.dtype == np.float32
        assert part.inputs.shape == (len(part.targets), 64)
        assert 0 == part.inputs.min() < part.inputs.max() == 1
        assert 0.4 < part.targets.mean() < 0.6


def test_every_image_is_in_one_part_of_one_task(tasks: tuple[Task, ...]) -> None:
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    parts = [(p, t.classes) for t in tasks for p in (t.train, t.validation, t.test)]
    found = np.concatenate([p.inputs for p, _ in parts]) * 16
    labels = np.concatenate([np.asarray(classes)[p.targets] for p, classes in parts])
    ours = np.column_stack([found, labels])
    theirs = np.column_stack([images, digits])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_the_split_does_not_depend_on_the_seed_of_the_day(tasks: tuple[Task, ...]) -> None:
    np.random.seed(1)
    again = split_digits()
    for one, other in zip(tasks, again, strict=True):
        np.testing.assert_array_equal(one.test.inputs, other.test.inputs)


# ---- what a hypernetwork keeps and fine-tuning forgets ---------------------------------------


@pytest.fixture(scope="module")
def records(tasks: tuple[Task, ...]) -> dict[str, Record]:
    learners = digits_learners(Training(steps=100))
    return {n: learn_in_sequence(lr, tasks[:2], checks=2) for n, lr in learners.items()}


def test_all_learners_learn_each_task(records: dict[str, Record]) -> None:
    for record in records.values():
        assert min(record.right_after) > 93


def test_the_hypernetwork_does_not_forget(records: dict[str, Record]) -> None:
    assert records["hypernetwork"].forgotten[0] <= 1
    assert min(records["hypernetwork"].final) > 93


@pytest.mark.parametrize("name", ["hypernetwork, unprotected", "fine-tuning"])
def test_without_protection_the_first_task_is_forgotten(
    records: dict[str, Record], name: str
) -> None:
    assert records[name].forgotten[0] > 8


def test_separate_networks_cannot_forget(records: dict[str, Record]) -> None:
    assert records["separate networks"].forgotten == [0, 0]


def test_the_numbers_kept_are_counted(records: dict[str, Record]) -> None:
    main = 64 * 64 + 64 + 64 * 32 + 32 + 32 * 2 + 2
    assert records["fine-tuning"].num_parameters == main
    assert records["separate networks"].num_parameters == 2 * main
    assert records["hypernetwork"].num_parameters < 2 * main + 500


def test_protection_holds_the_generated_weights(tasks: tuple[Task, ...]) -> None:
    moved = {}
    for name in ("hypernetwork", "hypernetwork, unprotected"):
        learner = digits_learners(Training(steps=60))[name]
        assert isinstance(learner, ContinualLearner)
        learner.learn(*tasks[0].train)
        before = learner.weights(0)
        learner.learn(*tasks[1].train)
        after = learner.weights(0)
        moved[name] = sum(float(np.square(after[n] - before[n]).sum()) for n in before)
    assert moved["hypernetwork"] < 0.1 * moved["hypernetwork, unprotected"]


def test_a_seed_says_it_all(tasks: tuple[Task, ...]) -> None:
    def run(seed: int) -> list[dict[str, np.ndarray]]:
        torch.rand(3)
        learner = digits_learners(Training(steps=5, seed=seed))["hypernetwork"]
        assert isinstance(learner, ContinualLearner)
        learn_in_sequence(learner, tasks[:2])
        return [learner.weights(0), learner.weights(1)]

    first, again, other = run(3), run(3), run(4)
    for one, two, three in zip(first, again, other, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
            assert np.abs(one[name] - three[name]).max() > 0


def test_learning_draws_nothing_from_the_callers_generator(tasks: tuple[Task, ...]) -> None:
    state = torch.get_rng_state()
    learn_in_sequence(digits_learners(Training(steps=2))["hypernetwork"], tasks[:2])
    assert torch.equal(state, torch.get_rng_state())


# ---- the learners ----------------------------------------------------------------------------


def small(num: int = 2, **kwargs: Any) -> ContinualLearner:
    target = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(num, 2))
    return ContinualLearner(hnet, hl.OutputRegularizer(1.0), training=Training(steps=2), **kwargs)


X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 3)


def test_ids_are_added_as_they_are_needed() -> None:
    learner = small(num=2)
    learned = []
    for _ in range(4):
        learned.append((learner.learn(X, Y), learner.hnet.plan.num_ids))
    assert learned == [(0, 2), (1, 2), (2, 3), (3, 4)]
    assert learner.embeddings().shape == (4, 2)


def test_arrays_are_as_good_as_tensors() -> None:
    one, two = small(), small()
    two.hnet.load_state_dict(copy.deepcopy(one.hnet.state_dict()))
    one.learn(X, Y)
    two.learn(X.numpy(), Y.numpy())
    np.testing.assert_array_equal(one.outputs(X, 0).numpy(), two.outputs(X.numpy(), 0).numpy())
    np.testing.assert_array_equal(one.predict(X, 0), one.outputs(X, 0).argmax(-1).numpy())


def test_another_loss_is_used() -> None:
    target = nn.Linear(3, 1)
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(1, 2))
    training = Training(steps=300, learning_rate=0.02)
    learner = ContinualLearner(hnet, None, training=training, loss=nn.functional.mse_loss)
    wanted = X @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.25
    task = learner.learn(X, wanted)
    torch.testing.assert_close(learner.outputs(X, task), wanted, atol=0.05, rtol=0)


def test_dropout_is_off_when_it_predicts_and_the_mode_is_left_alone() -> None:
    target = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.9), nn.Linear(8, 2))
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(1, 2))
    learner = ContinualLearner(hnet, None, training=Training(steps=1))
    learner.learn(X, Y)
    assert hnet.training
    assert torch.equal(learner.outputs(X, 0), learner.outputs(X, 0))
    assert hnet.training
    hnet.eval()
    learner.predict(X, 0)
    assert not hnet.training


@pytest.mark.parametrize("make", [FineTuning, SeparateNetworks])
def test_the_network_given_is_copied(make: Callable[..., Learner]) -> None:
    network = nn.Linear(3, 2)
    before = copy.deepcopy(network.state_dict())
    learner = make(network, training=Training(steps=3))
    assert learner.learn(X, Y) == 0
    assert learner.learn(X, Y) == 1
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_loaded_learner_goes_on_learning(tmp_path: Path, tasks: tuple[Task, ...]) -> None:
    learner = digits_learners(Training(steps=20))["hypernetwork"]
    assert isinstance(learner, ContinualLearner)
    learn_in_sequence(learner, tasks[:2])
    path = tmp_path / "two.safetensors"
    save(learner, path)

    again = load_digits_learner(path)
    assert again.num_tasks == 2
    for i in range(2):
        for name, value in learner.weights(i).items():
            np.testing.assert_array_equal(value, again.weights(i)[name])
    again.training = Training(steps=20)
    assert again.learn(*tasks[2].train) == 2
    hits = again.predict(tasks[2].test.inputs, 2) == tasks[2].test.targets
    assert hits.mean() > 0.8


@pytest.mark.parametrize(
    ("inputs", "targets", "text"),
    [
        (X[:0], Y[:0], "inputs: got shape (0, 3); wanted at least one example."),
        (X, Y[:5], "targets: got shape (5,) beside 6 inputs; wanted one for each input."),
        (torch.tensor(1.0), Y, "inputs: got shape (); wanted at least one example."),
    ],
)
def test_examples_that_do_not_pair_are_refused(inputs: Any, targets: Any, text: str) -> None:
    network = nn.Linear(3, 2)
    for learner in (small(), FineTuning(network), SeparateNetworks(network)):
        with pytest.raises(ValueError, match="wanted") as error:
            learner.learn(inputs, targets)
        assert str(error.value) == text
        with pytest.raises(IndexError, match="0 tasks learned"):
            learner.predict(X, 0)


def test_a_task_that_is_not_learned_is_refused() -> None:
    learner = small()
    learner.learn(X, Y)
    for task in (-1, 1):
        with pytest.raises(IndexError, match=rf"task: got {task}; wanted one of the 1 tasks"):
            learner.predict(X, task)
        with pytest.raises(IndexError, match=rf"task: got {task}"):
            learner.weights(task)


def test_a_condition_without_ids_is_refused() -> None:
    hnet = hl.HyperNetwork(nn.Linear(3, 2), condition=hl.Vector(4))
    with pytest.raises(ValueError, match=r"hnet: got the condition Vector\(4\); wanted"):
        ContinualLearner(hnet, None)


@pytest.mark.parametrize("num", [-1, 3])
def test_more_tasks_than_ids_are_refused(num: int) -> None:
    with pytest.raises(ValueError, match=f"num_tasks: got {num}; wanted 0 to 2"):
        small(num=2, num_tasks=num)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"steps": 0}, ValueError),
        ({"batch_size": 0}, ValueError),
        ({"steps": 2.5}, TypeError),
        ({"learning_rate": -1.0}, ValueError),
        ({"learning_rate": float("nan")}, ValueError),
        ({"seed": -1}, ValueError),
    ],
)
def test_bad_training_is_refused_by_name(kwargs: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"Training\({next(iter(kwargs))}=\): got"):
        Training(**kwargs)


def test_the_hypernetwork_of_the_demo_is_smaller_than_five_networks() -> None:
    hnet = digits_hypernetwork(digits_network())
    assert hnet.plan.num_parameters < 0.5 * 5 * hnet.plan.num_target_parameters


# ---- who imports whom ------------------------------------------------------------------------


def modules_after(code: str) -> set[str]:
    code += "\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_only_the_torch_file_of_the_recipe_imports_torch() -> None:
    names = ("", ".checks", ".data", ".sequence", ".setup", ".report", ".plots")
    code = "\n".join(f"import hyperloom.recipes.continual{name}" for name in names)
    loaded = modules_after(code)
    assert "hyperloom.recipes.continual.plots" in loaded
    assert not loaded & {"torch", "jax", "hyperloom.torch"}


def test_the_backend_does_not_import_recipes() -> None:
    loaded = modules_after("import hyperloom.torch")
    assert "torch" in loaded  # so that the test above can fail
    assert not [name for name in loaded if "recipes" in name]
