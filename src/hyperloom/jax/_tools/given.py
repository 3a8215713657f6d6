"""Arguments that several tools take, checked."""

from __future__ import annotations

from hyperloom._core.errors import a_kind
from hyperloom.jax._hypernetwork import HyperNetwork


def a_hypernetwork(argument: str, value: object) -> HyperNetwork:
    """Return `value` if it is a hypernetwork; raise `TypeError` otherwise."""
    return a_kind(argument, value, HyperNetwork, "a HyperNetwork")
