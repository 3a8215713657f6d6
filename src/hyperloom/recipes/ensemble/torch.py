"""Ensembles of digit classifiers as one hypernetwork each, their training, and what is measured."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl

MEMBERS, WIDTH, EMBEDDING, FEATURES = 20, 64, 8, 8
Members = Callable[[Tensor], Tensor]
"""From images `(members, n, 64)` to logits `(members, n, 10)`."""


def network() -> nn.Sequential:
    """Return one member: 64 pixels, a hidden layer, 10 logits."""
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))


class FromOneGenerator(nn.Module):
    """All members from one small generator; a member is an embedding of 8 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.hnet = hl.HyperNetwork(
            network(), condition=hl.Embedding(MEMBERS, EMBEDDING), trunk=hl.MLP(FEATURES)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(members, n, 10)` of images `(members, n, 64)`."""
        return self.hnet(x, condition=range(MEMBERS))


class Batched(nn.Module):
    """BatchEnsemble: members share their matrices, and scale inputs and outputs of each."""

    def __init__(self) -> None:
        super().__init__()
        self.hnet = hl.HyperNetwork(
            network(),
            condition=hl.Embedding(MEMBERS, EMBEDDING),
            layout=hl.PerCondition(),
            form={"*.weight": hl.RankOne(trained=True), "*": hl.Delta(trained=True)},
        )
        with torch.no_grad():  # members start as one; each is to go its own way
            for name, parameter in self.hnet.named_parameters():
                if name.startswith("heads"):
                    parameter.add_(0.3 * torch.randn_like(parameter))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(members, n, 10)` of images `(members, n, 64)`."""
        return self.hnet(x, condition=range(MEMBERS))


def step_of(members: nn.Module, rate: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a step of Adam on images `(members, n, 64)` and labels `(members, n)`."""
    optimizer = torch.optim.Adam(hl.param_groups(members, rate))

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        # The sum over members: each has the gradient that it would have alone.
        loss = len(x) * F.cross_entropy(members(x).flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        return loss.detach() / len(x)

    return step


@torch.no_grad()
def chances(members: nn.Module, x: Tensor) -> Tensor:
    """Return what each member says of each image of `(n, 64)`: `(members, n, 10)`."""
    return members(x.expand(MEMBERS, *x.shape)).softmax(-1)


def disagreement(said: Tensor) -> Tensor:
    """Return how far members disagree on each image, `(n,)`, in nats: mutual information."""
    return entropy(said.mean(0)) - entropy(said).mean(0)


def entropy(chance: Tensor) -> Tensor:
    """Return the entropy of distributions over the last axis, in nats."""
    return -(chance * chance.clamp_min(1e-12).log()).sum(-1)


def measures(said: Tensor, labels: Tensor, bins: int = 10) -> dict[str, float]:
    """Return accuracy (%), likelihood and calibration of the members' mean.

    Args:
        said: Of `chances`.
        labels: `(n,)`.
        bins: Of confidence, for the expected calibration error.
    """
    mean = said.mean(0)
    sure, answer = mean.max(-1)
    right = (answer == labels).float()
    where = (sure * bins).long().clamp_max(bins - 1)
    gaps = [(right[where == b].sum() - sure[where == b].sum()).abs() for b in range(bins)]
    likelihood = mean.gather(1, labels[:, None]).clamp_min(1e-12).log()
    return {
        "accuracy, %": 100 * float(right.mean()),
        "nats an image": -float(likelihood.mean()),
        "calibration error, %": 100 * float(sum(gaps)) / len(labels),
    }
