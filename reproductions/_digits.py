"""The 10,000 digits, split the same way for every run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NUM_TRAIN = 8000
SPLIT = f"Digits permuted by NumPy's RandomState(0); the first {NUM_TRAIN} to train, 2,000 to test"


def load_digits(path: Path | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return train x `(8000, 784)`, train y `(8000,)`, test x `(2000, 784)`, test y `(2000,)`.

    Raises:
        ValueError: No path, or arrays of other shapes.
    """
    if path is None:
        raise ValueError("data: got None; wanted the path of an .npz file with the digits.")
    with np.load(path) as data:
        digits, labels = data["X"], data["Y"]
    if digits.shape != (10_000, 784) or labels.shape != (10_000,):
        got = f"X of shape {digits.shape} and Y of shape {labels.shape}"
        raise ValueError(f"data: got {got}; wanted X (10000, 784) and Y (10000,).")
    order = np.random.RandomState(0).permutation(len(digits))
    x, y = torch.tensor(digits[order], dtype=torch.float32), torch.tensor(labels[order])
    return x[:NUM_TRAIN], y[:NUM_TRAIN], x[NUM_TRAIN:], y[NUM_TRAIN:]
