"""Generated tensors in other forms, and a hypernetwork's own parameters by whom they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from hyperloom._core.backend import factors as adapters
from hyperloom._core.backend import protocol, views
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.factors import Factors
from hyperloom._core.plan.plan import Plan
from hyperloom.torch._generate.table import Table
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._target.arrays import TENSOR
from hyperloom.torch._tools.given import a_hypernetwork


@completes(protocol.Backend.flatten)
def flatten(params: Mapping[str, Tensor], plan: Plan) -> Tensor:
    return views.flatten(params, plan, TENSOR, partial(torch.cat, dim=-1))


@completes(protocol.Backend.unflatten)
def unflatten(flat: Tensor, plan: Plan) -> dict[str, Tensor]:
    return views.unflatten(flat, plan, TENSOR, partial(torch.split, dim=-1))


@completes(protocol.Backend.unstack)
def unstack(params: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    return views.unstack(params, TENSOR, torch.unbind)


@completes(protocol.Backend.stack)
def stack(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return views.stack(samples, TENSOR, torch.stack)


@completes(protocol.Backend.concatenate)
def concatenate(
    factors: Mapping[str, Factors] | Sequence[Mapping[str, Factors]],
    weights: Tensor | Sequence[float] | None = None,
) -> dict[str, Factors]:
    return adapters.concatenate(factors, weights, torch.cat)


@completes(protocol.Backend.shared_parameters)
def shared_parameters(hnet: HyperNetwork) -> dict[str, Tensor]:
    hnet = a_hypernetwork("hnet", hnet)
    tables = _tables(hnet)
    named = hnet.named_parameters()
    return {name: p for name, p in named if name.rpartition(".")[0] not in tables}


@completes(protocol.Backend.conditional_parameters)
def conditional_parameters(hnet: HyperNetwork, cond_id: int | None = None) -> dict[str, Tensor]:
    """Their names are those of the state dict.

    Returns:
        The tables, a row for each id, as parameters under their names (`"condition.table.0"`);
        or for an id its rows, as views that lead back to the tables (`"condition.table"`).
    """
    hnet = a_hypernetwork("hnet", hnet)
    tables = _tables(hnet)
    if cond_id is None:
        named = hnet.named_parameters()
        return {name: p for name, p in named if name.rpartition(".")[0] in tables}
    views.check_id(cond_id, hnet.plan)
    return {name: table.rows()[cond_id] for name, table in tables.items()}


def _tables(hnet: HyperNetwork) -> dict[str, Table]:
    return {name: m for name, m in hnet.named_modules() if isinstance(m, Table)}
