"""Digits: scikit-learn's 8x8, or those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits


class Digits(NamedTuple):
    """Images `(N, 1, size, size)` in 0..1, float32, and what they show `(N,)`."""

    images: np.ndarray
    labels: np.ndarray


def load(path: Path | None) -> tuple[Digits, Digits]:
    """Return digits to learn from and to test on, four fifths and one fifth.

    Args:
        path: An `.npz` file with `X` `(N, size * size)`, of any scale, and `Y` `(N,)`, such as
            MNIST's digits; `None` for scikit-learn's 1,797.

    Raises:
        ValueError: A file without these arrays, or whose images are not square.
    """
    if path is None:
        pixels, labels = load_digits(return_X_y=True)
    else:
        with np.load(path) as file:
            if not {"X", "Y"} <= set(file.files):
                raise ValueError(
                    f"data: got arrays {sorted(file.files)} in {path}; wanted X and Y."
                )
            pixels, labels = file["X"], file["Y"]
    size = round(pixels.shape[-1] ** 0.5) if pixels.ndim == 2 else 0
    if size * size != pixels.shape[-1] or size % 4 or labels.shape != pixels.shape[:1]:
        got = f"X of shape {pixels.shape} and Y of shape {labels.shape}"
        wanted = "X (N, size * size) with a size that 4 divides, and Y (N,)"
        raise ValueError(f"data: got {got}; wanted {wanted}.")
    order = np.random.RandomState(0).permutation(len(labels))
    images = (pixels[order] / pixels.max()).astype(np.float32).reshape(-1, 1, size, size)
    labels, cut = labels[order].astype(np.int64), len(labels) * 4 // 5
    return Digits(images[:cut], labels[:cut]), Digits(images[cut:], labels[cut:])
