"""Running a target's pure function with generated weights in place of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def axes(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `in_axes` of `jax.vmap` for weights of a batch of conditions."""
    return dict.fromkeys(weights, 0)


def call(pure: Callable[..., Any], weights: Mapping[str, Any], *args: Any) -> Any:
    """Return `pure(tensors, *args)` for the weights of one condition.

    Args:
        pure: The target as a function of its tensors `{name: array}`, its state and its inputs.
            It closes over no array.
        weights: For each generated name a weight object, without the dimension of conditions;
            dense arrays are welcome among them.
        *args: Whatever else `pure` takes.
    """
    return pure(dict(weights), *args)
