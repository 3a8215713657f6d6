"""The same generator without hyperloom: one image, one matrix at a time, for `vmap` to batch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn


class ByHand(nn.Module):
    """A table of vectors, a layer, and a head that gives the numbers of networks ins-width-outs.

    Args:
        groups: Rows of the table.
        dim: Their length.
        trunk: Features that the weights are read from.
        ins: Inputs of the networks.
        width: Their hidden layer.
        outs: Their outputs.
    """

    def __init__(self, groups: int, dim: int, trunk: int, ins: int, width: int, outs: int) -> None:
        super().__init__()
        self.shapes = [(width, ins), (width,), (outs, width), (outs,)]
        self.table = nn.Embedding(groups, dim)
        self.trunk = nn.Linear(dim, trunk)
        self.head = nn.Linear(trunk, sum(math.prod(shape) for shape in self.shapes))

    def logits(self, parameters: Mapping[str, Tensor], group: Tensor, image: Tensor) -> Tensor:
        """Return the logits of one image by the network of its group."""
        vector = F.embedding(group, parameters["table.weight"])
        features = (parameters["trunk.weight"] @ vector + parameters["trunk.bias"]).relu()
        flat = parameters["head.weight"] @ features + parameters["head.bias"]
        pieces = flat.split([math.prod(shape) for shape in self.shapes])
        w1, b1, w2, b2 = (p.view(s) for p, s in zip(pieces, self.shapes, strict=True))
        return w2 @ (w1 @ image + b1).relu() + b2
