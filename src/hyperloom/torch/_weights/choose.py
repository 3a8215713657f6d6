"""The cost model's choice, remembered from call to call."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from hyperloom._core.plan import cost
from hyperloom._core.plan.contraction import contracts
from hyperloom._core.plan.cost import Layer
from hyperloom._core.plan.plan import Plan

_remembered = lru_cache(maxsize=4096)(cost.choose)


def choose(layer: Layer, itemsize: int, device: str) -> str:
    """Return the cheapest way to evaluate a layer: `"dense"`, `"inputs"` or `"outputs"`."""
    # torch.compile looks through caches, with a warning, and its sizes may be symbols.
    choice = cost.choose if torch.compiler.is_compiling() else _remembered
    return choice(layer, itemsize, device)


def some_contract(plan: Plan, known: dict[Any, bool], *sizes: Any, backward: bool) -> bool:
    """Remember in `known` for each batch size what `contracts` says of a plan."""
    if torch.compiler.is_compiling():  # a graph is not to depend on what is remembered
        return contracts(plan, *sizes, backward=backward, choose=choose)
    if (*sizes, backward) not in known:
        known[*sizes, backward] = contracts(plan, *sizes, backward=backward, choose=choose)
    return known[*sizes, backward]
