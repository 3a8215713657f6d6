"""Hypernetworks of PyTorch over a small target, for the tests of all folders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import hyperloom.torch as hl


def hypernetwork(make: Callable[[], Any], *, seed: int = 0, **choices: Any) -> hl.HyperNetwork:
    """Return a hypernetwork at its start; a file binds its usual choices with `partial`.

    Args:
        make: Returns the target; called once the generator is seeded.
        seed: Of torch's generator.
        **choices: Of `HyperNetwork`. The condition is by default an embedding of three ids.
    """
    torch.manual_seed(seed)
    choices = {"condition": hl.Embedding(3, 5), **choices}
    return hl.HyperNetwork(make(), **choices)


def shaken(hnet: hl.HyperNetwork, by: float = 0.1) -> hl.HyperNetwork:
    """Return `hnet` with noise added to every learned tensor."""
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter += by * torch.randn_like(parameter)
    return hnet
