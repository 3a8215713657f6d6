"""Figures of a hypernetwork, or of a checkpoint: `from hyperloom import plot`.

Every function returns a matplotlib `Figure` that belongs to no window: `figure.savefig("x.png")`; a
notebook shows it. Needs matplotlib: `pip install "hyperloom[plot]"`; with `"hyperloom[umap]"` there
are maps of conditions by UMAP too. What is drawn is a `HyperNetwork` of either backend, or the path
of a checkpoint, which needs no framework.
"""

from hyperloom.plot._draw.figures import conditions, similarity, tensor, weights
from hyperloom.plot._draw.path import path
from hyperloom.plot._draw.training import curves, layers

__all__ = ["conditions", "curves", "layers", "path", "similarity", "tensor", "weights"]
