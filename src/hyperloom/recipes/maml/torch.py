"""A start for each task from its points, steps from there, and the outer gradient through both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import hyperloom.torch as hl

WIDTH, FEATURES, RATE = 40, 64, 0.01
Weights = dict[str, Tensor]
"""Of B networks: for each name a tensor `(B, ...)`."""


def network() -> nn.Sequential:
    """Return the learner of the paper on MAML: two hidden layers of 40."""
    return nn.Sequential(
        nn.Linear(1, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)
    )


class Points(nn.Module):
    """A set of points `(B, SHOTS, 2)` as a vector `(B, FEATURES)`: the mean of their features."""

    dim = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES))

    def forward(self, points: Tensor) -> Tensor:
        """Return the vectors."""
        return self.net(points).mean(-2)


class Generated(nn.Module):
    """A start for each task; how far a step goes is learned too, one number for all."""

    def __init__(self) -> None:
        super().__init__()
        self.hnet = hl.HyperNetwork(network(), condition=Points(), trunk=hl.MLP(FEATURES))
        self.rate = nn.Parameter(torch.tensor(RATE))

    def start(self, support: Tensor) -> Weights:
        """Return the weights of a network for each set of points."""
        return self.hnet.generate(support)

    def run(self, theta: Weights, x: Tensor) -> Tensor:
        """Return the values of all networks at inputs `(B, n, 1)`."""
        return self.hnet.run(theta, x)


def adapted(model: Any, support: Tensor, steps: int, *, train: bool = True) -> Weights:
    """Return the weights of all tasks after steps of gradient descent on their points.

    Args:
        model: With `start`, `run` and `rate`.
        support: Points `(B, SHOTS, 2)`.
        steps: How many.
        train: Whether the outer gradient goes through the steps.
    """
    theta = model.start(support)
    for _ in range(steps):
        if not train:
            theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
        error = model.run(theta, support[..., :1]) - support[..., 1:]
        # The sum over tasks: each has the gradient that it would have alone.
        loss = error.square().mean((1, 2)).sum()
        slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=train)
        pairs = zip(theta.items(), slopes, strict=True)
        theta = {name: value - model.rate * slope for (name, value), slope in pairs}
    return theta


def step_of(model: Any, rate: float, steps: int) -> Callable[[Tensor, Tensor, Tensor], float]:
    """Return a step of Adam on points `(B, SHOTS, 2)`, and inputs and values to be judged by."""
    optimizer = torch.optim.Adam(hl.param_groups(model, rate))

    def step(support: Tensor, x: Tensor, y: Tensor) -> float:
        loss = (model.run(adapted(model, support, steps), x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def error_after(model: Any, support: Tensor, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Return the squared error of each task after steps of gradient descent, `(B,)`."""
    theta = adapted(model, support, steps, train=False)
    with torch.no_grad():
        return (model.run(theta, x) - y).square().mean((1, 2))
