"""Generated tensors in other forms, and a hypernetwork's own parameters by whom they belong to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hyperloom._errors import message
from hyperloom._plan import Plan
from hyperloom.torch._conditions import Table

if TYPE_CHECKING:
    from hyperloom.torch._hypernetwork import HyperNetwork


def flatten(params: Mapping[str, Tensor], plan: Plan) -> Tensor:
    """Join generated tensors into one vector for each condition.

    Args:
        params: What `generate` returned: `{name: (*batch, *shape)}`.
        plan: The hypernetwork's plan, `hnet.plan`.

    Returns:
        `(*batch, P)`, tensor after tensor in the target's order, each in row-major order.

    Raises:
        ValueError: A tensor is missing.
    """
    parts = []
    for name, shape in _shapes(plan).items():
        if name not in params:
            raise ValueError(message("params", f"no tensor for {name!r}", "all generated tensors"))
        value = params[name]
        parts.append(value.reshape(*value.shape[: value.ndim - len(shape)], -1))
    return torch.cat(parts, dim=-1)


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
    shapes = _shapes(plan)
    sizes = [math.prod(shape) for shape in shapes.values()]
    if flat.ndim == 0 or flat.shape[-1] != sum(sizes):
        got = f"a tensor of shape {tuple(flat.shape)}"
        raise ValueError(message("flat", got, f"(*batch, {sum(sizes)})"))
    cuts = zip(shapes.items(), flat.split(sizes, -1), strict=True)
    return {name: cut.reshape(*flat.shape[:-1], *shape) for (name, shape), cut in cuts}


def per_sample(params: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Take a batch of generated tensors apart.

    Args:
        params: `{name: (B, *shape)}`.

    Returns:
        For each condition `{name: (*shape,)}`, views.

    Raises:
        ValueError: Tensors with different first dimensions, or none at all.
    """
    sizes = {value.shape[:1] for value in params.values()}
    if len(sizes) != 1 or sizes == {()}:
        got = f"tensors with first dimensions {sorted(map(tuple, sizes))}"
        raise ValueError(message("params", got, "tensors (B, *shape)"))
    rows = zip(*(value.unbind(0) for value in params.values()), strict=True)
    return [dict(zip(params, row, strict=True)) for row in rows]


def stacked(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Put the tensors of several conditions into a batch: what `per_sample` took apart.

    Args:
        samples: For each condition `{name: (*shape,)}`.

    Returns:
        `{name: (B, *shape)}`.

    Raises:
        ValueError: No sample, or samples with other names than the first.
    """
    if not samples or any(set(sample) != set(samples[0]) for sample in samples):
        raise ValueError(message("samples", "none, or different names", "dicts of the same names"))
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def shared_parameters(hnet: HyperNetwork) -> dict[str, Tensor]:
    """Return the hypernetwork's own parameters that all conditions share, by name.

    Perturb them without changing them: `hnet.generate(c, parameters={n: p + d for ...})`.
    """
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
    tables = _tables(hnet)
    if cond_id is None:
        named = hnet.named_parameters()
        return {name: p for name, p in named if name.rpartition(".")[0] in tables}
    num = hnet.plan.num_ids or 0
    if not 0 <= cond_id < num:
        raise IndexError(message("cond_id", cond_id, f"an id in 0 .. {num - 1}"))
    return {name: table.rows()[cond_id] for name, table in tables.items()}


def _tables(hnet: HyperNetwork) -> dict[str, Table]:
    return {name: m for name, m in hnet.named_modules() if isinstance(m, Table)}


def _shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    return {entry.tensor: plan.spec[entry.tensor].shape for entry in plan.entries}
