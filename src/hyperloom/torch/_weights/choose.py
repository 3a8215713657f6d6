"""The cost model's choice, remembered from call to call."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from hyperloom._core.plan import cost
from hyperloom._core.plan.contraction import contracts
from hyperloom._core.plan.cost import Layer

if TYPE_CHECKING:
    from hyperloom.torch._hypernetwork import HyperNetwork

_remembered = lru_cache(maxsize=4096)(cost.choose)


def choose(layer: Layer, itemsize: int, device: str) -> str:
    """Return the cheapest way to evaluate a layer: `"dense"`, `"inputs"` or `"outputs"`."""
    # torch.compile looks through caches, with a warning, and its sizes may be symbols.
    choice = cost.choose if torch.compiler.is_compiling() else _remembered
    return choice(layer, itemsize, device)


def some_contract(hnet: HyperNetwork, *sizes: Any, backward: bool) -> bool:
    """Remember for each batch size what `contracts` says of a hypernetwork."""
    if torch.compiler.is_compiling():  # a graph is not to depend on what is remembered
        return contracts(hnet.plan, *sizes, backward=backward, choose=choose)
    known = hnet.__dict__["_known"]
    if (*sizes, backward) not in known:
        known[*sizes, backward] = contracts(hnet.plan, *sizes, backward=backward, choose=choose)
    return known[*sizes, backward]
