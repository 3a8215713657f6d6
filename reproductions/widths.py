"""One learning rate for every width of the generator: `param_groups` against one rate for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import hyperloom.torch as hl
from reproductions._result import Track, claim, result, silent, table

TITLE = "Learning rates: generators of width 16 to 1,024"
SOURCE = (
    "Yang et al., Tensor Programs V: tuning large neural networks via zero-shot hyperparameter "
    "transfer, 2022 (the maximal-update way, for heads and trunk); bounds of this project"
)
WIDTHS = (16, 64, 256, 1024)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
CHOSEN = 3e-2
"""The one rate that the claims are about: the best of `RATES` for the groups at width 16."""


@dataclass(frozen=True)
class Problem:
    """Several tasks that one hypernetwork learns at once.

    Attributes:
        target: Makes the target.
        inputs: `(tasks, examples, ...)`.
        labels: `(tasks, examples, ...)`.
        loss: Of outputs and labels.
        steps: How long it is learned.
    """

    target: Callable[[], nn.Module]
    inputs: Tensor
    labels: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    steps: int


def sines(seed: int) -> Problem:
    """Eight sine waves of different phase; the loss is the mean squared error."""
    draws = torch.Generator().manual_seed(seed)
    x = 6 * torch.rand(8, 64, 1, generator=draws) - 3
    phases = 0.8 * torch.arange(8.0).view(8, 1, 1)
    return Problem(
        lambda: nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)),
        x,
        torch.sin(x + phases),
        nn.functional.mse_loss,
        200,
    )


def digits(seed: int) -> Problem:
    """512 of scikit-learn's 8x8 digits under four orders of the pixels; cross-entropy."""
    draws = torch.Generator().manual_seed(seed)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images[:512] / 16, dtype=torch.float32)
    orders = [torch.randperm(64, generator=draws) for _ in range(4)]
    return Problem(
        lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        torch.stack([x[:, order] for order in orders]),
        torch.tensor(labels[:512]).expand(4, -1),
        lambda made, wanted: nn.functional.cross_entropy(made.flatten(0, 1), wanted.flatten()),
        100,
    )


PROBLEMS: dict[str, Callable[[int], Problem]] = {"sines": sines, "digits": digits}


def final_loss(problem: Problem, width: int, rate: float, groups: bool, seed: int) -> float:
    """Train a hypernetwork with a trunk `MLP(width, width)`; return its loss on all examples."""
    torch.manual_seed(seed)
    num = len(problem.inputs)
    hnet = hl.HyperNetwork(
        problem.target(), condition=hl.Embedding(num, 16), trunk=hl.MLP(width, width)
    )
    learned: Any = hl.param_groups(hnet, rate) if groups else hnet.parameters()
    optimizer = torch.optim.Adam(learned, rate)
    draws = torch.Generator().manual_seed(seed + 1)
    for _ in range(problem.steps):
        rows = torch.randint(problem.inputs.shape[1], (32,), generator=draws)
        made = hnet(problem.inputs[:, rows], condition=range(num))
        loss = problem.loss(made, problem.labels[:, rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return problem.loss(hnet(problem.inputs, condition=range(num)), problem.labels).item()


def run(
    data: Path | None,
    track: Track = silent,
    seeds: Sequence[int] = range(3),
    widths: Sequence[int] = WIDTHS,
    rates: Sequence[float] = RATES,
) -> dict[str, Any]:
    """Train every width at every rate, with and without groups, on both problems."""
    cases = [(p, g, r) for p in PROBLEMS for g in (True, False) for r in rates]
    step = track(TITLE, len(cases) * len(widths) * len(seeds))
    found: dict[tuple[str, bool, float], list[float]] = {}
    for case in cases:
        name, groups, rate = case
        found[case] = []
        for width in widths:
            losses = []
            for seed in seeds:
                losses.append(final_loss(PROBLEMS[name](seed), width, rate, groups, seed))
                step()
            found[case].append(sum(losses) / len(losses))
    claims = []
    for name in PROBLEMS:
        ours = found[name, True, CHOSEN]
        best = min(rates, key=lambda rate: found[name, False, rate][0])
        plain = found[name, False, best]
        claims += [
            claim(
                f"{name}, `param_groups` at {CHOSEN:g}: loss of each wider one, by that of width "
                f"{widths[0]}",
                [loss / ours[0] for loss in ours[1:]],
                most=2.0,
            ),
            claim(
                f"{name}, one rate for all parameters, {best:g} (the best at width {widths[0]}): "
                f"loss of width {widths[-1]}, by that of width {widths[0]}",
                [plain[-1] / plain[0]],
                least=2.0,
            ),
        ]
    rows = [
        [name, "param_groups" if groups else "one rate", f"{rate:g}", *(f"{x:.4f}" for x in losses)]
        for (name, groups, rate), losses in found.items()
    ]
    titles = ["problem", "rates", "rate", *(f"width {w}" for w in widths)]
    return result(
        TITLE,
        SOURCE,
        setup(len(seeds)),
        claims,
        [table("Loss on all examples after training, mean over seeds.", titles, rows)],
        {f"{n}, {'groups' if g else 'one rate'}, {r:g}": x for (n, g, r), x in found.items()},
    )


def setup(num_seeds: int) -> list[str]:
    """Return what was run, in words."""
    return [
        "Sines: eight sine waves of different phase, target 1-32-1 with tanh, 200 steps. Digits: "
        "512 of scikit-learn's 8x8 digits under four orders of the pixels, target 64-32-10, 100 "
        "steps.",
        "Condition Embedding(tasks, 16), trunk MLP(width, width), Full(); Adam, all tasks in a "
        f"batch of 32 examples each; mean of {num_seeds} seeds.",
    ]
