"""hyper-nn's classes for Flax."""

from hyperloom.compat.hypernn.jax.dynamic_hypernet import (
    JaxDynamicEmbeddingModule,
    JaxDynamicHyperNetwork,
)
from hyperloom.compat.hypernn.jax.hypernet import JaxHyperNetwork
from hyperloom.compat.hypernn.jax.linear_hypernet import JaxLinearHyperNetwork

__all__ = [
    "JaxDynamicEmbeddingModule",
    "JaxDynamicHyperNetwork",
    "JaxHyperNetwork",
    "JaxLinearHyperNetwork",
]
