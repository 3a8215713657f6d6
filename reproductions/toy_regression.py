"""Toy continual regression of von Oswald et al. 2020 (figure 2, `hypercl/toy_example`)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from reproductions._result import Step, Track, claim, mean_and_range, result, silent, table

TITLE = "Toy continual regression"
SOURCE = "von Oswald et al., Continual learning with hypernetworks, ICLR 2020; hypercl/toy_example"
PUBLISHED = (0.00419, 0.00239, 0.00607)
DATA_SEED = 42  # as published
NOISE = 0.05
TASKS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray], float, float], ...] = (
    ("x + 3 on [-4, -2]", lambda x: x + 3, -4, -2),
    ("2x² − 1 on [-1, 1]", lambda x: 2 * x**2 - 1, -1, 1),
    ("(x − 3)³ on [2, 4]", lambda x: (x - 3) ** 3, 2, 4),
)


def make_tasks() -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return for each task 100 noisy points to train on and 50 exact ones on a grid to test on."""
    made = []
    for _, function, low, high in TASKS:
        draws = np.random.RandomState(DATA_SEED)
        x = draws.uniform(low, high, size=(100, 1))
        y = function(x) + draws.normal(0.0, NOISE, size=(100, 1))
        grid = np.linspace(low, high, 50).reshape(50, 1)
        made.append(
            tuple(torch.tensor(a, dtype=torch.float32) for a in (x, y, grid, function(grid)))
        )
    return made


def make_hypernetwork() -> hl.HyperNetwork:
    """Main network and trunk 10, 10 with sigmoids; the first task's embedding to begin with."""
    target = nn.Sequential(
        nn.Linear(1, 10), nn.Sigmoid(), nn.Linear(10, 10), nn.Sigmoid(), nn.Linear(10, 1)
    )
    for parameter in target.parameters():
        # PyTorch's own init is too small for sigmoids: runs stay at a task's mean for long. The
        # published generator, Xavier heads on sigmoid features, gives numbers of std .2 to .7.
        nn.init.normal_(parameter, 0.0, 0.7)
    trunk = hl.MLP(10, 10, activation="sigmoid")
    return hl.HyperNetwork(target, condition=hl.Embedding(1, 2), trunk=trunk, layout=hl.Full())


def train_sequence(
    seed: int, beta: float, iterations: int, step: Step
) -> tuple[list[float], list[float]]:
    """Learn the tasks one after the other; return the test MSE right after each, and at the end."""
    torch.manual_seed(seed)
    tasks = make_tasks()
    hnet = make_hypernetwork()
    generator = [p for name, p in hnet.named_parameters() if not name.startswith("condition.")]
    regularizer = hl.OutputRegularizer(beta)
    after = []
    for task, (x, y, _, _) in enumerate(tasks):
        # As published: a task trains its own embedding, earlier ones stay as they are.
        own = hnet.add_conditions(1) if task else list(hnet.condition.parameters())
        optimizer = torch.optim.Adam([*generator, *own], lr=1e-2)
        regularizer.remember(hnet, range(task))
        order = torch.randperm(len(x))
        for i in range(iterations):
            if i % 3 == 0:
                order = torch.randperm(len(x))
            rows = order[32 * (i % 3) :][:32]
            optimizer.zero_grad()
            loss = F.mse_loss(hnet(x[rows], condition=task), y[rows])
            if beta:
                loss = loss + regularizer(hnet)
            loss.backward()
            optimizer.step()
            step()
        after.append(test_error(hnet, tasks, task))
    return after, [test_error(hnet, tasks, task) for task in range(len(tasks))]


def test_error(hnet: hl.HyperNetwork, tasks: list[Any], task: int) -> float:
    with torch.no_grad():
        _, _, x, y = tasks[task]
        return F.mse_loss(hnet(x, condition=task), y).item()


def run(
    data: Path | None,
    track: Track = silent,
    seeds: Sequence[int] = range(10),
    iterations: int = 4001,
) -> dict[str, Any]:
    """Train with the regulariser, one run a seed, and once without it for contrast."""
    runs = [(seed, 0.005) for seed in seeds] + [(seeds[0], 0.0)]
    step = track(TITLE, len(runs) * len(TASKS) * iterations)
    found = {(seed, beta): train_sequence(seed, beta, iterations, step) for seed, beta in runs}
    kept = [final for (_, beta), (_, final) in found.items() if beta]
    claims = [
        claim(
            f"{name}: final MSE, {kind} of {len(seeds)} seeds",
            [pool([final[i] for final in kept])],
            most=1.25 * published,
            published=f"{published:.5f}",
            digits=5,
        )
        for kind, pool in (("mean", statistics.fmean), ("median", statistics.median))
        for i, ((name, *_), published) in enumerate(zip(TASKS, PUBLISHED, strict=True))
    ]
    rows = [
        [f"β = {beta:g}, seed {seed}", *(f"{v:.5f}" for v in after), *(f"{v:.5f}" for v in final)]
        for (seed, beta), (after, final) in found.items()
    ]
    spread = "; ".join(
        f"task {i + 1} {mean_and_range([final[i] for final in kept], 5)}" for i in range(len(TASKS))
    )
    columns = [
        "run",
        *(f"{i} right after" for i in (1, 2, 3)),
        *(f"{i} at the end" for i in (1, 2, 3)),
    ]
    title = f"MSE of each task. At the end, mean (lowest – highest seed): {spread}."
    raw = {
        f"beta {beta:g}, seed {seed}": {"right after": after, "at the end": final}
        for (seed, beta), (after, final) in found.items()
    }
    return result(TITLE, SOURCE, setup(iterations), claims, [table(title, columns, rows)], raw)


def setup(iterations: int) -> list[str]:
    """Return what was run, in words."""
    return [
        f"Data as published (seed {DATA_SEED}): a task has 100 uniform points with noise "
        f"N(0, {NOISE}²) to train on. The test set is 50 equidistant points **without noise**, in "
        "the published code as here, so the MSE has no noise floor: .0024 for task 2 is not the "
        "noise's variance .0025, and values below it are possible.",
        "Main network 1-10-10-1 and trunk 10, 10, sigmoids; embedding 2; Full(). Adam 1e-2, new "
        f"for each task; batch 32; {iterations} iterations a task; output regulariser β = .005 "
        "without the lookahead step; a task trains its own embedding and the generator, earlier "
        "embeddings stay (`add_conditions` gives each task a parameter of its own).",
        "Other than published: the trunk's init and its normalised features are this library's "
        "defaults, and the target starts N(0, .7²), which Native() hands on. The .7 was chosen "
        "on trial runs of the same tasks; with PyTorch's own init 1 run in 16 stays at the mean "
        "of task 2.",
        "The published numbers are one run (seed 42). Runs differ by a factor of 10 and more, by "
        "where the steps of Adam at 1e-2 happen to end and by what later tasks take from earlier "
        "ones, so the mean over seeds is led by one or two runs; the median is given beside it.",
    ]
