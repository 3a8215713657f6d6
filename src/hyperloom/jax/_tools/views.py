"""Generated tensors in other forms, and a hypernetwork's own parameters by whom they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.backend import views
from hyperloom._core.plan.plan import Plan
from hyperloom.jax._arrays import ARRAY
from hyperloom.jax._generate.table import Table
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._target.adaptor import dotted
from hyperloom.jax._tools.given import a_hypernetwork

Params = dict[str, Array]


def flatten(params: Mapping[str, Array], plan: Plan) -> Array:
    """Join generated tensors into one vector for each condition.

    Args:
        params: What `generate` returned: `{name: (*batch, *shape)}`.
        plan: The hypernetwork's plan, `hnet.plan`.

    Returns:
        `(*batch, P)`, tensor after tensor in the target's order, each in row-major order.

    Raises:
        ValueError: A tensor is missing, has another shape, or another batch than the first.
    """
    return views.flatten(params, plan, ARRAY, partial(jnp.concatenate, axis=-1))


def unflatten(flat: Array, plan: Plan) -> Params:
    """Cut vectors into tensors: what `flatten` joined.

    Args:
        flat: `(*batch, P)`.
        plan: The hypernetwork's plan.

    Returns:
        `{name: (*batch, *shape)}`.

    Raises:
        ValueError: Another width than `P`.
    """

    def split(array: Array, sizes: list[int]) -> list[Array]:
        return jnp.split(array, np.cumsum(sizes)[:-1], axis=-1)

    return views.unflatten(flat, plan, ARRAY, split)


def unstack(params: Mapping[str, Array]) -> list[Params]:
    """Take a batch of generated tensors apart.

    Args:
        params: `{name: (B, *shape)}`.

    Returns:
        For each condition `{name: (*shape,)}`.

    Raises:
        ValueError: Tensors with different first dimensions, or none at all.
    """
    return views.unstack(params, ARRAY, jnp.unstack)


def stack(samples: Sequence[Mapping[str, Array]]) -> Params:
    """Put the tensors of several conditions into a batch: what `unstack` took apart.

    Args:
        samples: For each condition `{name: (*shape,)}`.

    Returns:
        `{name: (B, *shape)}`.

    Raises:
        ValueError: No sample, or samples with other names than the first.
    """
    return views.stack(samples, ARRAY, jnp.stack)


def shared_parameters(hnet: HyperNetwork) -> Params:
    """Return the hypernetwork's own parameters that all conditions share, by name.

    Names are those of `functional`. Perturb them without changing them:
    `hnet.generate(c, parameters={n: p + d for ...})`.
    """
    return _parts(a_hypernetwork("hnet", hnet))[0]


def conditional_parameters(hnet: HyperNetwork, cond_id: int | None = None) -> Params:
    """Return the hypernetwork's own parameters that belong to single conditions, by name.

    Args:
        hnet: The hypernetwork.
        cond_id: A condition's id, for its rows only.

    Returns:
        The tables, a row for each id, under the names of `functional`
        (`"condition.table.blocks.0"`; ids added later have a block of their own); or for an id
        its rows (`"condition.table"`).

    Raises:
        IndexError: An id that the hypernetwork does not know.
    """
    _, own, tables = _parts(a_hypernetwork("hnet", hnet))
    if cond_id is None:
        return own
    views.check_id(cond_id, hnet.plan)
    return {name: table.rows()[cond_id] for name, table in tables.items()}


def _parts(hnet: HyperNetwork) -> tuple[Params, Params, dict[str, Table]]:
    """Return shared parameters, those of the tables, and the tables."""
    modules = {dotted(path): module for path, module in nnx.iter_modules(hnet)}
    shared: Params = {}
    own: Params = {}
    tables: dict[str, Table] = {}
    for path, variable in nnx.to_flat_state(nnx.state(hnet, nnx.Param)):
        owner = modules.get(dotted(path[:-2]))
        if isinstance(owner, Table):
            tables[dotted(path[:-2])] = owner
        found = own if isinstance(owner, Table) else shared
        found[dotted(path)] = variable.get_value()
    return shared, own, tables
