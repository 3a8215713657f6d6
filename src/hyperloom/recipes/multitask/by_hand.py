"""The same generator without hyperloom: one layer, one head, and products of batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ByHand(nn.Module):
    """Makes networks ins-width-1 from vectors, and runs each on its images.

    Args:
        words: Length of a vector.
        ins: Inputs of the networks.
        width: Their hidden layer.
        trunk: Features that their weights are read from.
    """

    def __init__(self, words: int, ins: int, width: int, trunk: int) -> None:
        super().__init__()
        self.shapes = [(width, ins), (width,), (1, width), (1,)]
        self.trunk = nn.Linear(words, trunk)
        self.head = nn.Linear(trunk, sum(math.prod(shape) for shape in self.shapes))
        # Each tensor with the spread of a native layer's start, on average over vectors.
        fans = [ins, ins, width, width]
        with torch.no_grad():
            start = 0
            for shape, fan in zip(self.shapes, fans, strict=True):
                rows = slice(start, start := start + math.prod(shape))
                bound = math.sqrt(3) * math.sqrt(1 / (3 * fan)) / math.sqrt(trunk / 6)
                self.head.weight[rows].uniform_(-bound, bound)
                self.head.bias[rows].zero_()

    def forward(self, vectors: Tensor, images: Tensor) -> Tensor:
        """Return the logits `(B, n)` of B networks on n images each."""
        flat = self.head(self.trunk(vectors).relu())
        sizes = [math.prod(shape) for shape in self.shapes]
        pieces = flat.split(sizes, -1)
        w1, b1, w2, b2 = (p.unflatten(-1, s) for p, s in zip(pieces, self.shapes, strict=True))
        hidden = torch.baddbmm(b1.unsqueeze(1), images, w1.mT).relu()
        return torch.baddbmm(b2.unsqueeze(1), hidden, w2.mT).squeeze(-1)
