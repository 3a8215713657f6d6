"""The cost model's choice, remembered from call to call."""

from __future__ import annotations

from functools import lru_cache

import torch

from hyperloom._core.plan import cost
from hyperloom._core.plan.cost import Layer

_remembered = lru_cache(maxsize=4096)(cost.choose)


def choose(layer: Layer, itemsize: int, device: str) -> str:
    """Return the cheapest way to evaluate a layer: `"dense"`, `"inputs"` or `"outputs"`."""
    # torch.compile looks through caches, with a warning, and its sizes may be symbols.
    asked_anew = torch.compiler.is_compiling() or cost.is_forced()
    choice = cost.choose if asked_anew else _remembered
    return choice(layer, itemsize, device)
