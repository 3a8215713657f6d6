"""From a plan and its heads to the generated weights that a call runs with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jax import Array

from hyperloom.jax._conditions import Encoded

if TYPE_CHECKING:
    from hyperloom.jax._hypernetwork import HyperNetwork


def make_weights(
    hnet: HyperNetwork, encoded: Encoded, key: Array | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the target runs with on a batch of conditions.

    Args:
        hnet: The hypernetwork.
        encoded: The conditions, with one batch dimension `(B,)`.
        key: For dropout in the trunk.

    Returns:
        Weights with a slice for each condition, `{name: array (B, *shape) or weight object}`, and
        tensors that all conditions share, `{name: array (*shape)}`: those that are kept.
    """
    return hnet._generate(encoded, key), hnet._kept()
