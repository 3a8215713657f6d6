"""Continual learning on split digits, with hypnettorch's interface and natively.

Five tasks of two digits each, learned one after the other by one small network whose weights a
chunked hypernetwork generates; a regulariser keeps what is generated for old tasks. The idea of
hypnettorch's `examples/hypercl` (von Oswald et al., "Continual learning with hypernetworks",
ICLR 2020).

    python examples/split_digits.py                      # scikit-learn's 8x8 digits
    python examples/split_digits.py --data mnist.npz --steps 2000   # X (N, D), Y (N,) in a file

`peer_style` runs with hypnettorch and with `hyperloom.compat.hypnettorch` alike: only the import
differs. `natively` starts from the same numbers and does the same with a `HyperNetwork`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.compat import hypnettorch as door


@dataclass(frozen=True)
class Settings:
    """How large and how long."""

    steps: int = 200
    batch: int = 32
    strength: float = 1.0
    rate: float = 5e-3
    hidden: int = 20
    chunk: int = 300
    seed: int = 0


@dataclass
class Outcome:
    """What a run gives."""

    losses: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)  # accuracy right after each task
    final: list[float] = field(default_factory=list)  # and at the end
    seconds: float = 0.0


Task = tuple[Tensor, Tensor, Tensor, Tensor]


def tasks_of(x: np.ndarray, y: np.ndarray) -> list[Task]:
    """Split into five tasks of two digits; a fifth of each is for testing."""
    order = np.random.RandomState(0).permutation(len(x))
    x, y = x[order], y[order]
    made = []
    for first in range(0, 10, 2):
        own = (y == first) | (y == first + 1)
        inputs = torch.from_numpy(x[own]).float()
        labels = torch.from_numpy(y[own] % 2).long()
        cut = len(inputs) // 5
        made.append((inputs[cut:], labels[cut:], inputs[:cut], labels[:cut]))
    return made


def target(width: int, settings: Settings) -> nn.Module:
    torch.manual_seed(settings.seed)
    return nn.Sequential(
        nn.Linear(width, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, 2)
    )


def hypernetwork(lib: Any, net: nn.Module, settings: Settings) -> Any:
    """Make a hypernetwork of hypnettorch's kind."""
    torch.manual_seed(settings.seed)
    return lib.hnets.ChunkedHMLP(
        [list(p.shape) for p in net.parameters()],
        settings.chunk,
        chunk_emb_size=16,
        cond_in_size=16,
        layers=(25, 25),
        num_cond_embs=5,
        verbose=False,
    )


def peer_style(lib: Any, tasks: list[Task], settings: Settings, start: Any = None) -> Outcome:
    """Train with hypnettorch's interface.

    Args:
        lib: A module with `hnets` and `utils.hnet_regularizer`: hypnettorch, or the door.
        tasks: The tasks.
        settings: Sizes and length.
        start: A state dict to start from.
    """
    net = target(tasks[0][0].shape[1], settings)
    names = [name for name, _ in net.named_parameters()]
    hnet = hypernetwork(lib, net, settings)
    hnet.load_state_dict(hnet.state_dict() if start is None else start)

    def run(x: Tensor, task: int) -> Tensor:
        weights = hnet.forward(cond_id=task)
        return torch.func.functional_call(net, dict(zip(names, weights, strict=True)), (x,))

    reg = lib.utils.hnet_regularizer
    made = Outcome()
    draws = torch.Generator().manual_seed(settings.seed)
    begin = time.perf_counter()
    for task, (x, y, _, _) in enumerate(tasks):
        targets = reg.get_current_targets(task, hnet) if task else []
        optimizer = torch.optim.Adam(hnet.internal_params, settings.rate, fused=True)
        for _ in range(settings.steps):
            rows = torch.randint(len(x), (settings.batch,), generator=draws)
            loss = F.cross_entropy(run(x[rows], task), y[rows])
            if task:
                penalty = reg.calc_fix_target_reg(
                    hnet, task, targets=targets, prev_theta=None, prev_task_embs=None
                )
                loss = loss + settings.strength * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            made.losses.append(loss.item())
        made.after.append(accuracy(run, tasks, task))
    made.seconds = time.perf_counter() - begin
    made.final = [accuracy(run, tasks, task) for task in range(len(tasks))]
    return made


def natively(tasks: list[Task], settings: Settings, start: Any = None) -> Outcome:
    """Train with a `HyperNetwork`, from the numbers that `peer_style` starts from."""
    net = target(tasks[0][0].shape[1], settings)
    like = hypernetwork(door, net, settings)
    like.load_state_dict(like.state_dict() if start is None else start)
    hnet = door.to_native(like, net)
    regularizer = hl.OutputRegularizer(settings.strength)

    def run(x: Tensor, task: int) -> Tensor:
        return hnet(x, condition=task)

    made = Outcome()
    draws = torch.Generator().manual_seed(settings.seed)
    begin = time.perf_counter()
    for task, (x, y, _, _) in enumerate(tasks):
        regularizer.remember(hnet, range(task))
        optimizer = torch.optim.Adam(hnet.parameters(), settings.rate, fused=True)
        for _ in range(settings.steps):
            rows = torch.randint(len(x), (settings.batch,), generator=draws)
            loss = F.cross_entropy(run(x[rows], task), y[rows]) + regularizer(hnet)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            made.losses.append(loss.item())
        made.after.append(accuracy(run, tasks, task))
    made.seconds = time.perf_counter() - begin
    made.final = [accuracy(run, tasks, task) for task in range(len(tasks))]
    return made


def accuracy(run: Any, tasks: list[Task], task: int) -> float:
    with torch.no_grad():
        guess = run(tasks[task][2], task).argmax(-1)
    return float((guess == tasks[task][3]).float().mean())


def start_of(tasks: list[Task], settings: Settings) -> Any:
    """Return the numbers that all start from."""
    net = target(tasks[0][0].shape[1], settings)
    return hypernetwork(door, net, settings).state_dict()


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return bunch.data / 16.0, bunch.target


def main() -> None:
    parser = argparse.ArgumentParser(description="Split digits, with hypnettorch and natively.")
    parser.add_argument("--data", help="an npz file with X (N, D) and Y (N,)")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="steps a task")
    given = parser.parse_args()
    if given.data:
        with np.load(given.data) as held:
            x, y = held["X"], held["Y"]
    else:
        x, y = digits()
    settings = Settings(steps=given.steps)
    tasks = tasks_of(x, y)
    start = start_of(tasks, settings)
    runs = {"door": lambda: peer_style(door, tasks, settings, start)}
    runs["native"] = lambda: natively(tasks, settings, start)
    with contextlib.suppress(ImportError):
        from importlib import import_module

        hypnettorch = import_module("hypnettorch")
        for part in ("hnets", "utils.hnet_regularizer"):  # it imports no part of its own accord
            import_module(f"hypnettorch.{part}")
        runs["hypnettorch"] = lambda: peer_style(hypnettorch, tasks, settings, start)
    for name, run in runs.items():
        with contextlib.redirect_stdout(io.StringIO()):
            made = run()
        per_step = 1e3 * made.seconds / len(made.losses)
        shown = " ".join(f"{100 * a:.1f}" for a in made.final)
        print(
            f"{name:12} {shown}  mean {100 * np.mean(made.final):.2f} %  {per_step:.2f} ms a step"
        )


if __name__ == "__main__":
    main()
