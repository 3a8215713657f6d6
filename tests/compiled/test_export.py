"""`torch.export` of a batch: one program for any number of conditions and rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, export

import hyperloom.torch as hl
from tests._support.compare import close
from tests._support.on_torch import hypernetwork, shaken


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x)) * x


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


LORA = {"layout": {"*.weight": hl.Full()}, "form": hl.LoRA(1), "condition": hl.Vector(3)}
# Exported in both ways: a run of the code itself, and Dynamo's.
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "chain of ids": (chain, {"condition": hl.Embedding(4, 3)}),
    "chain": (chain, {"condition": hl.Vector(3)}),
    "gated": (Gated, {"condition": hl.Vector(3)}),
    "gated, LoRA": (Gated, LORA),
    "normed": (normed, {"condition": hl.Vector(3)}),
}


# `functional_call` puts tensors into the target and takes them out again: torch tells of both.
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_conditions_and_rows(name: str, strict: bool) -> None:
    make, choices = CASES[name]
    hnet = shaken(hypernetwork(make, **choices)).eval()

    def given(num: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.arange(num) % 4
        return torch.randn(num, rows, 4), ids if "ids" in name else torch.randn(num, 3)

    x, c = given(3, 2)
    sizes = {"inputs": ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC},), "condition": {0: Dim.DYNAMIC}}
    program = export(hnet, (x,), {"condition": c}, dynamic_shapes=sizes, strict=strict).module()
    for num, rows in ((3, 2), (2, 5), (12, 3)):
        x, c = given(num, rows)
        close(program(x, condition=c), hnet(x, condition=c), 1e-5)
