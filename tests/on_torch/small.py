"""Targets of one layer, and hypernetworks of them, for the tests of how calls are run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import hyperloom.torch as hl
from tests._support.compare import close as close
from tests._support.on_torch import hypernetwork, shaken

X = torch.randn(3, 5, 4, dtype=torch.float64)
IDS = [2, 0, 3]


def of_ids(make: Any, condition: Any = None, **options: Any) -> hl.HyperNetwork:
    """Make a hypernetwork in float64, of four ids if nothing else is said; move it."""
    condition = condition or hl.Embedding(4, 3)
    return shaken(hypernetwork(lambda: make().double(), condition=condition, **options))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
