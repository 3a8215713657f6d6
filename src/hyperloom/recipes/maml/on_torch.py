"""What the demo asks of PyTorch: models from a seed, arrays in and out."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.recipes.maml import torch as ours
from hyperloom.recipes.maml.by_hand import HandGenerated, OneStart, copied, run
from hyperloom.recipes.maml.data import Tasks
from hyperloom.recipes.maml.torch import RATE, step_of

__all__ = ["HAND", "OURS", "RATE", "hl", "step_of"]

OURS = (ours.Generated, ours.adapted)
HAND = (HandGenerated, run, ours.adapted)
copy_of = deepcopy


def models(seed: int) -> dict[str, nn.Module]:
    """Return what is trained, from a seed."""
    torch.manual_seed(seed)
    generated = ours.Generated()
    return {"generated": generated, "by hand": copied(generated), "one start": OneStart()}


def given(tasks: Tasks) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points of tasks, and the inputs and values to be judged by."""
    arrays = tasks.support, tasks.query_x, tasks.query_y
    return tuple(map(torch.from_numpy, arrays))  # pyright: ignore[reportReturnType]


def difference(one: Any, other: Any, tasks: Tasks) -> float:
    """Return how far the values of two models differ at most, after a step."""
    values = [values_at(model, tasks, tasks.query_x, 1) for model in (one, other)]
    return float(np.abs(values[0] - values[1]).max())


def size_of(model: Any) -> int:
    """Return how many numbers are learned."""
    return sum(p.numel() for p in model.parameters())


def values_at(model: Any, tasks: Tasks, x: np.ndarray, steps: int) -> np.ndarray:
    """Return the values at `x` `(B, n, 1)` after steps on the points of tasks."""
    theta = ours.adapted(model, torch.from_numpy(tasks.support), steps, train=False)
    with torch.no_grad():
        return model.run(theta, torch.from_numpy(np.array(x))).numpy()


def error_after(model: Any, support: Tensor, x: Tensor, y: Tensor, steps: int) -> np.ndarray:
    """Return the squared error of each task after steps, `(B,)`."""
    return ours.error_after(model, support, x, y, steps).numpy()
