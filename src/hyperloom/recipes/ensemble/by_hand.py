"""The same generator without hyperloom, and twenty networks side by side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom.recipes.ensemble.torch import EMBEDDING, FEATURES, MEMBERS, WIDTH

SHAPES = ((WIDTH, 64), (WIDTH,), (10, WIDTH), (10,))


class HandGenerator(nn.Module):
    """`FromOneGenerator`, written out: embed, generate, cut, shape, multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(MEMBERS, EMBEDDING))
        self.trunk = nn.Linear(EMBEDDING, FEATURES)
        self.head = nn.Linear(FEATURES, sum(torch.Size(shape).numel() for shape in SHAPES))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(members, n, 10)`."""
        flat = self.head(F.rms_norm(self.trunk(self.embedding).relu(), (FEATURES,)))
        cut = flat.split([torch.Size(shape).numel() for shape in SHAPES], 1)
        w1, b1, w2, b2 = (c.reshape(MEMBERS, *s) for c, s in zip(cut, SHAPES, strict=True))
        hidden = torch.baddbmm(b1[:, None], x, w1.mT).relu()
        return torch.baddbmm(b2[:, None], hidden, w2.mT)


def copied(theirs: nn.Module) -> HandGenerator:
    """Return the same ensemble by hand, with the weights of one of hyperloom's."""
    hand, found = HandGenerator(), dict(theirs.named_parameters())
    with torch.no_grad():
        for mine, other in zip(hand.parameters(), found.values(), strict=True):
            mine.copy_(other)
    return hand


class SeparateNetworks(nn.Module):
    """Twenty networks that share nothing, run side by side by batched products."""

    def __init__(self) -> None:
        super().__init__()
        fans = (64, 64, WIDTH, WIDTH)
        self.values = nn.ParameterList(
            nn.Parameter((2 * torch.rand(MEMBERS, *shape) - 1) / fan**0.5)
            for shape, fan in zip(SHAPES, fans, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(members, n, 10)`."""
        w1, b1, w2, b2 = self.values
        hidden = torch.baddbmm(b1[:, None], x, w1.mT).relu()
        return torch.baddbmm(b2[:, None], hidden, w2.mT)
