"""Running a target's pure function with generated weights in place of its parameters.

The function is traced with plain arrays, which any module takes, and its equations are evaluated
one by one. Equations that meet a weight have rules: products of matrices, convolutions, look-ups
and whatever only changes how a weight is seen. An equation without a rule gets the dense array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Var

from hyperloom.jax._rules import control, equations
from hyperloom.jax._rules.evaluate import evaluate, to_dense
from hyperloom.jax._rules.products import Context
from hyperloom.jax._target.arrays import ranks_promoted
from hyperloom.jax._weights.choose import Record, device_class
from hyperloom.jax._weights.weights import StructuredWeight, formed

# Rules register themselves when their modules are read.
RULE_MODULES = (equations, control)


def axes(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `in_axes` of `jax.vmap` for weights of a batch of conditions."""
    return {
        name: weight.in_axes if isinstance(weight, StructuredWeight) else 0
        for name, weight in weights.items()
    }


def taken(weights: Mapping[str, Any], places: Any) -> dict[str, Any]:
    """Return the weights of some of the conditions."""
    return {
        name: jax.tree.map(
            lambda axis, value: value if axis is None else jnp.take(value, places, axis),
            axes(weights)[name],
            weight,
            is_leaf=lambda axis: axis is None,
        )
        for name, weight in weights.items()
    }


def with_kernels(weights: Mapping[str, Any], num: int) -> dict[str, Any]:
    """Return the weights with dense kernels as objects, where convolution has a better way.

    Args:
        weights: Arrays `(B, *shape)` and objects by name.
        num: Conditions `B`.
    """
    if num <= 1 or device_class() != "cpu":
        return dict(weights)
    return {
        name: weight
        if isinstance(weight, StructuredWeight) or weight.ndim < 4
        else formed(name, weight, 1)
        for name, weight in weights.items()
    }


@ranks_promoted
def formed_for_all(
    weights: Mapping[str, Any], num: int, record: Record | None = None
) -> dict[str, Array]:
    """Return weights of a batch of conditions as arrays `(B, *shape)`.

    Args:
        weights: Arrays and objects by name.
        num: Conditions `B`.
        record: Where to note what was chosen.
    """
    context = Context(num, record=record)

    def one(weights: Mapping[str, Any]) -> dict[str, Array]:
        return {name: to_dense(context, weight) for name, weight in weights.items()}

    return jax.vmap(one, in_axes=(axes(weights),), axis_size=num)(dict(weights))


def call(
    pure: Callable[..., Any],
    weights: Mapping[str, Any],
    *args: Any,
    num_conditions: int = 1,
    record: Record | None = None,
) -> Any:
    """Return `pure(tensors, *args)` for the weights of one condition.

    Args:
        pure: The target as a function of its tensors `{name: array}`, its state and its inputs.
        weights: For each generated name a weight object, without the dimension of conditions;
            dense arrays are welcome among them.
        *args: Whatever else `pure` takes.
        num_conditions: Conditions `B` of the `vmap` around, which the costs depend on.
        record: Where to note what was chosen: (tensor, operation, way, layer).
    """
    objects = any(isinstance(weight, StructuredWeight) for weight in weights.values())
    if not objects and record is None:
        return pure(dict(weights), *args)
    plain = {name: _plain(weight) for name, weight in weights.items()}
    closed, shape = jax.make_jaxpr(pure, return_shape=True)(plain, *args)
    given = [weights[name] for name in sorted(weights)]
    if record is not None:
        read = {v for eqn in closed.jaxpr.eqns for v in eqn.invars if isinstance(v, Var)}
        read |= {v for v in closed.jaxpr.outvars if isinstance(v, Var)}
        for name, variable in zip(sorted(weights), closed.jaxpr.invars, strict=False):
            if variable not in read:
                record(name, "none", "unused", None)
    flat = [*given, *jax.tree.leaves(args)]
    results = evaluate(Context(num_conditions, record=record), closed, flat)
    return jax.tree.unflatten(jax.tree.structure(shape), results)


def _plain(weight: Any) -> Any:
    if isinstance(weight, StructuredWeight):
        return jax.ShapeDtypeStruct(weight.shape, weight.dtype)
    return weight
