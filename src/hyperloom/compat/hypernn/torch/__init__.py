"""hyper-nn's classes for PyTorch."""

from hyperloom.compat.hypernn.torch.dynamic_hypernet import (
    TorchDynamicEmbeddingModule,
    TorchDynamicHyperNetwork,
)
from hyperloom.compat.hypernn.torch.hypernet import TorchHyperNetwork
from hyperloom.compat.hypernn.torch.linear_hypernet import TorchLinearHyperNetwork

__all__ = [
    "TorchDynamicEmbeddingModule",
    "TorchDynamicHyperNetwork",
    "TorchHyperNetwork",
    "TorchLinearHyperNetwork",
]
