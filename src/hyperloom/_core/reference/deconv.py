"""The oracle's activations, and the trunk of transposed convolutions in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hyperloom._core.choices.deconv import Deconv, Step

Tensors = Mapping[str, np.ndarray]


def draw_image(trunk: Deconv, tensors: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    """Run the trunk on one input `(E + w,)`; return its pixels, channel by channel."""
    weight = _normed(trunk, tensors[f"{name}.first.weight"])
    image = (weight @ x + tensors[f"{name}.first.bias"]).reshape(trunk.first)
    image = activate(trunk.activation, image)
    if 0 in trunk.attention:
        image = _attend(tensors, f"{name}.attention.0", image)
    for i, step in enumerate(trunk.steps):
        kernel = _normed(trunk, tensors[f"{name}.steps.{i}.weight"])
        image = _spread(step, kernel, image) + tensors[f"{name}.steps.{i}.bias"][:, None, None]
        if not step.last:
            image = activate(trunk.activation, image)
        if step.attention:
            image = _attend(tensors, f"{name}.attention.{i + 1}", image)
    return image.reshape(-1)


def _normed(trunk: Deconv, weight: np.ndarray) -> np.ndarray:
    flat = weight.reshape(len(weight), -1)
    return weight / np.linalg.norm(flat, 2) if trunk.spectral else weight


def _spread(step: Step, kernel: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Transposed convolution: every pixel adds a kernel to the output."""
    out = np.zeros((step.channels[1], *step.out), image.dtype)
    for y, x in np.ndindex(*step.size):
        for ky, kx in np.ndindex(*step.kernel):
            row = y * step.stride[0] - step.padding[0] + ky
            column = x * step.stride[1] - step.padding[1] + kx
            if 0 <= row < step.out[0] and 0 <= column < step.out[1]:
                out[:, row, column] += image[:, y, x] @ kernel[:, :, ky, kx]
    return out


def _attend(tensors: Tensors, name: str, image: np.ndarray) -> np.ndarray:
    pixels = image.reshape(len(image), -1)
    maps = [
        tensors[f"{name}.{part}.weight"] @ pixels + tensors[f"{name}.{part}.bias"][:, None]
        for part in ("query", "key", "value")
    ]
    energy = maps[0].T @ maps[1]
    share = np.exp(energy - energy.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    return image + tensors[f"{name}.gamma"] * (maps[2] @ share.T).reshape(image.shape)


def activate(name: str, x: np.ndarray) -> np.ndarray:
    """Return an activation of `x`."""
    if name == "gelu":
        erf = np.vectorize(math.erf, otypes=[x.dtype])
        return 0.5 * x * (1 + erf(x / np.sqrt(2.0)))
    rules = {
        "relu": lambda: np.maximum(x, 0),
        "leaky_relu": lambda: np.where(x > 0, x, 0.01 * x),
        "elu": lambda: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        "silu": lambda: x / (1 + np.exp(-x)),
        "tanh": lambda: np.tanh(x),
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "softplus": lambda: np.logaddexp(x, 0),
        "identity": lambda: x,
    }
    return rules[name]()
