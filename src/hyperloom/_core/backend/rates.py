"""Learning rates: by what factor each learned array's rate is smaller than a plain network's.

An optimiser like Adam moves every number by about its rate, and a step moves them all in the
direction that the loss asks for. A number that is a sum of `F` products `weight * feature` then
moves by `F` times the rate, where a weight of a plain network moves by the rate. So the matrices
that read features have the rate divided by the number of their inputs, and one rate is good for
narrow and wide generators (the maximal-update way: Yang et al., "Tensor Programs V", 2022,
table 8, hidden and output weights under Adam).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hyperloom._core.errors import finite_float
from hyperloom._core.plan.plan import Plan


def divisors(plan: Plan, names: Iterable[str]) -> dict[str, int]:
    """Return by what the rate of each learned array of a hypernetwork is divided.

    Weights of linear heads, and those of an `MLP` or a `Transformer` that read features of the
    trunk's own: by their number of inputs. All else (biases, conditions, slot embeddings, tables,
    banks, bases, a trunk's first layer, modules of the user's) is not divided.

    Args:
        plan: The hypernetwork's plan.
        names: Names of its learned arrays in either backend.
    """
    linear = [head for head in plan.heads if head.linear]
    wide = {f"heads.{head.name}.weight": plan.features(head) for head in linear}
    for trunk in range(len(plan.widths)):
        for name, width in plan.trunk.inner_fans().items():
            # The layers of an MLP are the trunk itself in torch, a list of its in JAX.
            wide[f"trunks.{trunk}.{name}"] = width
            wide[f"trunks.{trunk}.layers.{name}"] = width
    return {name: wide.get(name, 1) for name in names}


def label(divisor: int) -> str:
    """Return the name of the group of arrays whose rate is divided by `divisor`."""
    return "lr" if divisor == 1 else f"lr/{divisor}"


def check_rate(lr: Any) -> float:
    """Return a rate if it is a finite number of at least 0; raise otherwise."""
    return finite_float("lr", lr, least=0.0)
