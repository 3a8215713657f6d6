"""scikit-learn's digits in four groups, and what training on them gives away."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

GROUPS = 4
DELTA = 1e-4  # below one in the number of images
_ORDERS = np.arange(2, 65)


class Images(NamedTuple):
    """Images of all groups; group g's are turned by g quarter turns.

    Attributes:
        groups: `(N,)`.
        pixels: `(N, 64)` in 0..1, float32.
        digits: `(N,)`.
    """

    groups: np.ndarray
    pixels: np.ndarray
    digits: np.ndarray


def load() -> tuple[Images, Images]:
    """Return images to learn from (70 %) and to test on; each belongs to one group."""
    pixels, digits = load_digits(return_X_y=True)
    groups = np.arange(len(digits)) % GROUPS
    images = (pixels / 16).astype(np.float32).reshape(-1, 8, 8)
    turned = [np.rot90(image, int(group)) for image, group in zip(images, groups, strict=True)]
    every = Images(groups, np.stack(turned).reshape(len(digits), 64), digits)
    learn, test = train_test_split(
        np.arange(len(digits)), test_size=0.3, random_state=0, stratify=digits
    )
    return Images(*(part[learn] for part in every)), Images(*(part[test] for part in every))


def epsilon(share: float, noise: float, steps: int, delta: float = DELTA) -> float:
    """Return the epsilon of (epsilon, delta)-privacy after steps of DP-SGD.

    Rényi divergences of the Gaussian mechanism on a Poisson sample, at whole orders (Mironov,
    Talwar and Zhang, "Rényi Differential Privacy of the Sampled Gaussian Mechanism", 2019, 3.3),
    added over the steps and turned into epsilon (Canonne, Kamath and Steinke, 2020, prop. 12).

    Args:
        share: Probability of a sample to be in a step's lot.
        noise: Standard deviation of the noise over the norm that gradients are clipped to.
        steps: Number of steps.
        delta: Default 1e-4.
    """
    best = math.inf
    for order in _ORDERS:
        k = np.arange(order + 1)
        choose = np.array(
            [math.lgamma(order + 1) - math.lgamma(i + 1) - math.lgamma(order - i + 1) for i in k]
        )
        logs = choose + k * math.log(share) + (order - k) * math.log1p(-share)
        divergence = np.logaddexp.reduce(logs + (k * k - k) / (2 * noise**2)) / (order - 1)
        spent = steps * divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        best = min(best, float(spent))
    return max(best, 0.0)
