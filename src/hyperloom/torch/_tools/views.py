"""Generated tensors in other forms, and a hypernetwork's own parameters by whom they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from hyperloom._core.backend import views
from hyperloom._core.plan.plan import Plan
from hyperloom.torch._arrays import TENSOR
from hyperloom.torch._generate.table import Table
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._tools.given import a_hypernetwork


def flatten(params: Mapping[str, Tensor], plan: Plan) -> Tensor:
    """Join generated tensors into one vector for each condition.

    Args:
        params: What `generate` returned: `{name: (*batch, *shape)}`.
        plan: The hypernetwork's plan, `hnet.plan`.

    Returns:
        `(*batch, P)`, tensor after tensor in the target's order, each in row-major order.

    Raises:
        ValueError: A tensor is missing, has another shape, or another batch than the first.
    """
    return views.flatten(params, plan, TENSOR, partial(torch.cat, dim=-1))


def unflatten(flat: Tensor, plan: Plan) -> dict[str, Tensor]:
    """Cut vectors into tensors: what `flatten` joined.

    Args:
        flat: `(*batch, P)`.
        plan: The hypernetwork's plan.

    Returns:
        `{name: (*batch, *shape)}`, views.

    Raises:
        ValueError: Another width than `P`.
    """
    return views.unflatten(flat, plan, TENSOR, partial(torch.split, dim=-1))


def unstack(params: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Take a batch of generated tensors apart.

    Args:
        params: `{name: (B, *shape)}`.

    Returns:
        For each condition `{name: (*shape,)}`, views.

    Raises:
        ValueError: Tensors with different first dimensions, or none at all.
    """
    return views.unstack(params, TENSOR, torch.unbind)


def stack(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Put the tensors of several conditions into a batch: what `unstack` took apart.

    Args:
        samples: For each condition `{name: (*shape,)}`.

    Returns:
        `{name: (B, *shape)}`.

    Raises:
        ValueError: No sample, or samples with other names than the first.
    """
    return views.stack(samples, TENSOR, torch.stack)


def shared_parameters(hnet: HyperNetwork) -> dict[str, Tensor]:
    """Return the hypernetwork's own parameters that all conditions share, by name.

    Perturb them without changing them: `hnet.generate(c, parameters={n: p + d for ...})`.
    """
    hnet = a_hypernetwork("hnet", hnet)
    tables = _tables(hnet)
    named = hnet.named_parameters()
    return {name: p for name, p in named if name.rpartition(".")[0] not in tables}


def conditional_parameters(hnet: HyperNetwork, cond_id: int | None = None) -> dict[str, Tensor]:
    """Return the hypernetwork's own parameters that belong to single conditions, by name.

    Args:
        hnet: The hypernetwork.
        cond_id: A condition's id, for its rows only.

    Returns:
        The tables, a row for each id, as parameters under their names (`"condition.table.0"`);
        or for an id its rows, as views that lead back to the tables (`"condition.table"`).

    Raises:
        IndexError: An id that the hypernetwork does not know.
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
