"""Generated tensors in other forms, and a hypernetwork's own parameters by whom they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.backend import factors as adapters
from hyperloom._core.backend import protocol, views
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.factors import Factors
from hyperloom._core.plan.plan import Plan
from hyperloom.jax._generate.table import Table
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._target.adaptor import dotted
from hyperloom.jax._target.arrays import ARRAY
from hyperloom.jax._tools.given import a_hypernetwork

Params = dict[str, Array]


@completes(protocol.Backend.flatten)
def flatten(params: Mapping[str, Array], plan: Plan) -> Array:
    return views.flatten(params, plan, ARRAY, partial(jnp.concatenate, axis=-1))


@completes(protocol.Backend.unflatten)
def unflatten(flat: Array, plan: Plan) -> Params:

    def split(array: Array, sizes: list[int]) -> list[Array]:
        return jnp.split(array, np.cumsum(sizes)[:-1], axis=-1)

    return views.unflatten(flat, plan, ARRAY, split)


@completes(protocol.Backend.unstack)
def unstack(params: Mapping[str, Array]) -> list[Params]:
    return views.unstack(params, ARRAY, jnp.unstack)


@completes(protocol.Backend.stack)
def stack(samples: Sequence[Mapping[str, Array]]) -> Params:
    return views.stack(samples, ARRAY, jnp.stack)


@completes(protocol.Backend.concatenate)
def concatenate(
    factors: Mapping[str, Factors] | Sequence[Mapping[str, Factors]],
    weights: Array | Sequence[float] | None = None,
) -> dict[str, Factors]:
    return adapters.concatenate(factors, weights, jnp.concatenate)


@completes(protocol.Backend.shared_parameters)
def shared_parameters(hnet: HyperNetwork) -> Params:
    """Names are those of `functional`."""
    return _parts(a_hypernetwork("hnet", hnet))[0]


@completes(protocol.Backend.conditional_parameters)
def conditional_parameters(hnet: HyperNetwork, cond_id: int | None = None) -> Params:
    """Their names are those of `functional`.

    Returns:
        The tables, a row for each id, under the names of `functional`
        (`"condition.table.blocks.0"`; ids added later have a block of their own); or for an id
        its rows (`"condition.table"`).
    """
    _, table_params, tables = _parts(a_hypernetwork("hnet", hnet))
    if cond_id is None:
        return table_params
    views.check_id(cond_id, hnet.plan)
    return {name: table.rows()[cond_id] for name, table in tables.items()}


def _parts(hnet: HyperNetwork) -> tuple[Params, Params, dict[str, Table]]:
    """Return shared parameters, those of the tables, and the tables."""
    modules = {dotted(path): module for path, module in nnx.iter_modules(hnet)}
    shared: Params = {}
    table_params: Params = {}
    tables: dict[str, Table] = {}
    for path, variable in nnx.to_flat_state(nnx.state(hnet, nnx.Param)):
        owner = modules.get(dotted(path[:-2]))
        if isinstance(owner, Table):
            tables[dotted(path[:-2])] = owner
        params = table_params if isinstance(owner, Table) else shared
        params[dotted(path)] = variable.get_value()
    return shared, table_params, tables
