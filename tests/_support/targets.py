"""Targets of PyTorch that several folders of tests use. Those of one folder stay there."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


def mlp(*widths: int, bias: bool = True, seed: int | None = None) -> nn.Sequential:
    """Return linear layers with tanh between them: smooth, so that finite differences hold.

    Args:
        *widths: Of the input, of every hidden layer, and of the output.
        bias: Whether layers have biases.
        seed: Of torch's generator, set before; by default it is left as it is.
    """
    if seed is not None:
        torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for a, b in pairwise(widths):
        parts += [nn.Linear(a, b, bias=bias), nn.Tanh()]
    return nn.Sequential(*parts[:-1])
