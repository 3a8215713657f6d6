"""The same generator without hyperloom; networks that clients train alone; federated averaging."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.recipes.federated.torch import (
    EMBEDDING,
    TRUNK,
    WIDTH,
    Weights,
    network,
    train_locally,
)

SHAPES = {"w1": (WIDTH, 64), "b1": (WIDTH,), "w2": (10, WIDTH), "b2": (10,)}
SIZES = [torch.Size(shape).numel() for shape in SHAPES.values()]


def run(theta: Weights, x: Tensor) -> Tensor:
    """Return the logits `(B, n, 10)` of B networks."""
    w1, b1, w2, b2 = theta.values()
    hidden = torch.baddbmm(b1[:, None], x, w1.mT).relu()
    return torch.baddbmm(b2[:, None], hidden, w2.mT)


class HandGenerator(nn.Module):
    """`hypernetwork`, written out: embed, generate, cut, shape."""

    def __init__(self, clients: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(clients, EMBEDDING))
        self.first, self.second = nn.Linear(EMBEDDING, TRUNK[0]), nn.Linear(*TRUNK)
        self.head = nn.Linear(TRUNK[1], sum(SIZES))

    def forward(self, ids: Tensor) -> Weights:
        """Return the weights of clients."""
        features = self.second(self.first(self.embedding[ids]).relu()).relu()
        flat = self.head(F.rms_norm(features, TRUNK[1:]))
        parts = zip(SHAPES.items(), flat.split(SIZES, 1), strict=True)
        return {name: part.reshape(-1, *shape) for (name, shape), part in parts}


def copied(hnet: hl.HyperNetwork, clients: int) -> HandGenerator:
    """Return the same by hand, with the numbers of one of hyperloom's."""
    hand = HandGenerator(clients)
    with torch.no_grad():
        for mine, other in zip(hand.parameters(), hnet.parameters(), strict=True):
            mine.copy_(other)
    return hand


def alone(clients: int) -> Weights:
    """Return the start of networks that share nothing."""
    starts = [dict(zip(SHAPES, network().parameters(), strict=True)) for _ in range(clients)]
    return {name: torch.stack([start[name].detach() for start in starts]) for name in SHAPES}


def average(theta: Weights, x: Tensor, y: Tensor) -> Weights:
    """Make one round of federated averaging; `theta` is one network, without a batch axis."""
    sent = repeated(theta, len(x))
    return {name: value.mean(0) for name, value in train_locally(run, sent, x, y).items()}


def repeated(theta: Weights, clients: int) -> Weights:
    """Return one network for each client, all the same."""
    return {name: value.expand(clients, *value.shape) for name, value in theta.items()}
