"""The same generator without hyperloom."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ByHand(nn.Module):
    """The CNN with its second kernel from two linear layers, as the paper has them.

    Args:
        cnn: The plain network; its second kernel is left unused.
        width: Of the embedding z and of the features a.
    """

    def __init__(self, cnn: nn.Sequential, width: int) -> None:
        super().__init__()
        self.first, self.last = cnn[:3], cnn[4:]
        second = cnn[3]
        assert isinstance(second, nn.ConvTranspose2d)
        self.shape = second.weight.shape
        ins = self.shape[0]
        self.bias = second.bias
        self.z = nn.Parameter(torch.randn(width))
        self.own = nn.Parameter(torch.randn(ins, width, width + 1))
        self.out = nn.Linear(width, self.shape[1:].numel())

    def kernel(self) -> Tensor:
        """Return the second kernel."""
        a = self.own[..., :-1] @ self.z + self.own[..., -1]
        return self.out(a / (self.own.shape[-1]) ** 0.5).view(self.shape)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images `(n, 1, size, size)`."""
        hidden = F.conv_transpose2d(
            self.first(images), self.kernel(), self.bias, padding=self.shape[-1] // 2
        )
        return self.last(hidden)
