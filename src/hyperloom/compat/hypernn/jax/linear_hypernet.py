"""`JaxLinearHyperNetwork`: the name that hyper-nn 0.2 has for the README's class."""

from __future__ import annotations

from hyperloom.compat.hypernn.jax.hypernet import JaxHyperNetwork


class JaxLinearHyperNetwork(JaxHyperNetwork):
    """`JaxHyperNetwork` under its newer name."""
