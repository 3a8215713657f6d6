"""Targets of one layer, and hypernetworks of them, for the tests of how calls are run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import hyperloom.torch as hl
from tests._support.compare import close as close
from tests.on_torch.builders import shaken

X = torch.randn(3, 5, 4, dtype=torch.float64)
IDS = [2, 0, 3]


def build(make: Any, condition: Any = None, **options: Any) -> hl.HyperNetwork:
    torch.manual_seed(0)
    condition = condition or hl.Embedding(4, 3)
    return shaken(hl.HyperNetwork(make().double(), condition=condition, **options))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
