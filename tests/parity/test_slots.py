"""Trunks over slots and conditions that are sets: PyTorch against the NumPy oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

import hyperloom.torch as hl
from tests._support.on_torch import shaken
from tests._support.slots import CASES, NUM, raw
from tests.on_torch.cases import mlp
from tests.parity.test_parity import check


def values(kind: Any, masked: bool, dtype: torch.dtype) -> Any:
    """Return a batch of raw values."""

    def tensor(array: Any) -> torch.Tensor:
        made = torch.from_numpy(array)
        return made.to(dtype) if made.is_floating_point() else made

    return tree_map(tensor, raw(kind, masked))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", CASES)
def test_against_the_oracle(name: str, masked: bool, dtype: torch.dtype) -> None:
    choices, kind = CASES[name]
    hnet = shaken(hl.HyperNetwork(mlp().to(dtype), **choices))
    check(hnet, values(kind, masked, dtype), NUM, dtype)
