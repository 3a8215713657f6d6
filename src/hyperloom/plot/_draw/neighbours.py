"""UMAP's map of vectors, where umap-learn is installed."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import numpy as np

from hyperloom._core.errors import message

LEAST, MEANT_FOR = 4, 16
NEIGHBOURS = 15  # umap-learn's own default


def wanted(asked: bool | None, num: int) -> bool:
    """Return whether to draw UMAP's map of `num` vectors.

    Raises:
        ModuleNotFoundError: It is asked for, and umap-learn is not installed.
    """
    there = find_spec("umap") is not None
    if asked and not there:
        way_out = 'pip install "hyperloom[umap]"; or leave it out for PCA alone.'
        raise ModuleNotFoundError(message("umap", "True", "umap-learn installed", way_out))
    return there and num >= MEANT_FOR if asked is None else asked


def places(vectors: np.ndarray) -> np.ndarray:
    """Return places `(n, 2)` of vectors `(n, width)`; the same on every call."""
    with warnings.catch_warnings():
        # It says at import that a class which is not used here needs TensorFlow.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP  # pyright: ignore[reportMissingImports]

    near = min(NEIGHBOURS, len(vectors) - 1)
    found = UMAP(n_neighbors=near, random_state=0, n_jobs=1).fit_transform(vectors)
    return np.asarray(found, np.float64)
