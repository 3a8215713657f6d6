"""`TorchLinearHyperNetwork`: the name that hyper-nn 0.2 has for the README's class."""

from __future__ import annotations

from hyperloom.compat.hypernn.torch.hypernet import TorchHyperNetwork


class TorchLinearHyperNetwork(TorchHyperNetwork):
    """`TorchHyperNetwork` under its newer name."""
