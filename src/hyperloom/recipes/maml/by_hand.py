"""The same generator without hyperloom, and one start for all tasks: MAML as it was published."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom.recipes.maml.torch import FEATURES, RATE, WIDTH, Generated, Points, Weights, network

SHAPES = {"w1": (WIDTH, 1), "b1": (WIDTH,), "w2": (WIDTH, WIDTH), "b2": (WIDTH,),
          "w3": (1, WIDTH), "b3": (1,)}  # fmt: skip
SIZES = [torch.Size(shape).numel() for shape in SHAPES.values()]


def run(theta: Weights, x: Tensor) -> Tensor:
    """Return the values `(B, n, 1)` of B networks."""
    w1, b1, w2, b2, w3, b3 = theta.values()
    x = torch.baddbmm(b1[:, None], x, w1.mT).relu()
    x = torch.baddbmm(b2[:, None], x, w2.mT).relu()
    return torch.baddbmm(b3[:, None], x, w3.mT)


class HandGenerated(nn.Module):
    """`Generated`, written out: encode, generate, cut, shape."""

    def __init__(self) -> None:
        super().__init__()
        self.points = Points()
        self.trunk = nn.Linear(FEATURES, FEATURES)
        self.head = nn.Linear(FEATURES, sum(SIZES))
        self.rate = nn.Parameter(torch.tensor(RATE))
        self.run = run

    def start(self, support: Tensor) -> Weights:
        """Return the weights of a network for each set of points."""
        features = F.rms_norm(self.trunk(self.points(support)).relu(), (FEATURES,))
        cut = zip(SHAPES.items(), self.head(features).split(SIZES, 1), strict=True)
        return {name: part.reshape(-1, *shape) for (name, shape), part in cut}


def copied(theirs: Generated) -> HandGenerated:
    """Return the same by hand, with the numbers of one of hyperloom's."""
    hand, named = HandGenerated(), dict(theirs.hnet.named_parameters())
    ours = [value for name, value in named.items() if name.startswith("condition")]
    ours += [named[f"trunks.0.0.{part}"] for part in ("weight", "bias")]
    ours += [named[f"heads.full.{part}"] for part in ("weight", "bias")]
    inner = [value for name, value in hand.named_parameters() if name != "rate"]
    with torch.no_grad():
        for mine, other in zip(inner, ours, strict=True):
            mine.copy_(other)
    return hand


class OneStart(nn.Module):
    """MAML: the same start for all tasks, and the same learned rate."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.ParameterList(network().parameters())
        self.rate = nn.Parameter(torch.tensor(RATE))
        self.run = run

    def start(self, support: Tensor) -> Weights:
        """Return the weights of a network for each set of points."""
        values = zip(SHAPES, self.values, strict=True)
        return {name: value.expand(len(support), *value.shape) for name, value in values}
