"""Sines as tasks: amplitude 0.1 to 5, phase 0 to π, inputs -5 to 5, as in the paper on MAML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SHOTS, BATCH = 10, 25


class Tasks(NamedTuple):
    """Sines, float32, each with points to adapt to and points to be judged by.

    Attributes:
        x: Inputs to adapt to `(B, SHOTS, 1)`.
        y: Their values, as long.
        query_x: Inputs to be judged by `(B, n, 1)`.
        query_y: Their values.
    """

    x: np.ndarray
    y: np.ndarray
    query_x: np.ndarray
    query_y: np.ndarray

    @property
    def support(self) -> np.ndarray:
        """The points to adapt to, `(B, SHOTS, 2)`: the condition."""
        return np.concatenate([self.x, self.y], -1)


def draw(rng: np.random.Generator, num: int = BATCH, queries: int = SHOTS) -> Tasks:
    """Return `num` sines that nobody has seen."""
    amplitude, phase = rng.uniform(0.1, 5, (num, 1, 1)), rng.uniform(0, np.pi, (num, 1, 1))
    x = rng.uniform(-5, 5, (num, SHOTS + queries, 1))
    x, y = x.astype("float32"), (amplitude * np.sin(x - phase)).astype("float32")
    return Tasks(x[:, :SHOTS], y[:, :SHOTS], x[:, SHOTS:], y[:, SHOTS:])


def stream(seed: int) -> Iterator[Tasks]:
    """Yield batches of tasks for training, without an end."""
    rng = np.random.default_rng(seed)
    while True:
        yield draw(rng)


def unseen(num: int = 600) -> Tasks:
    """Return the tasks that all are judged by: the same in every run."""
    return draw(np.random.default_rng(2017), num, 100)
