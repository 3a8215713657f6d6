"""A server that generates the network of each client, and learns from what clients send back."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl

WIDTH, EMBEDDING, TRUNK = 32, 16, (64, 64)
LOCAL_STEPS, LOCAL_RATE = 10, 0.2
Weights = dict[str, Tensor]
"""Of B networks: for each name a tensor `(B, ...)`."""
Run = Callable[[Weights, Tensor], Tensor]
"""From the weights of B networks and images `(B, n, 64)` to logits `(B, n, 10)`."""


def network() -> nn.Sequential:
    """Return a client's network: 64 pixels, a hidden layer, 10 logits."""
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))


def hypernetwork(clients: int) -> hl.HyperNetwork:
    """Return the server's generator: a client is an embedding of 16 numbers."""
    return hl.HyperNetwork(
        network(), condition=hl.Embedding(clients, EMBEDDING), trunk=hl.MLP(*TRUNK)
    )


def train_locally(
    run: Run,
    theta: Weights,
    x: Tensor,
    y: Tensor,
    steps: int = LOCAL_STEPS,
    rate: float = LOCAL_RATE,
) -> Weights:
    """Return the weights of clients after steps of gradient descent on their own images.

    Args:
        run: Runs the networks.
        theta: What each client was sent.
        x: Images `(B, n, 64)`.
        y: Digits `(B, n)`.
        steps: How many.
        rate: Of gradient descent.
    """
    for _ in range(steps):
        theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
        logits = run(theta, x)
        # The sum over clients: each has the gradient of its own mean.
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum") / x.shape[1]
        slopes = torch.autograd.grad(loss, list(theta.values()))
        pairs = zip(theta.items(), slopes, strict=True)
        theta = {name: value.detach() - rate * slope for (name, value), slope in pairs}
    return theta


def serve(
    generator: Callable[[Tensor], Weights],
    run: Run,
    optimizer: torch.optim.Optimizer,
    ids: Tensor,
    x: Tensor,
    y: Tensor,
) -> None:
    """Make one round: send weights, let clients train, learn from the differences.

    What a client changed takes the place of a gradient with respect to the weights it was sent;
    the server never sees an image.

    Args:
        generator: Weights by ids.
        run: Runs the networks.
        optimizer: Of the generator's parameters.
        ids: The clients of this round `(B,)`.
        x: Their images `(B, n, 64)`.
        y: Their digits `(B, n)`.
    """
    sent = generator(ids)
    back = train_locally(run, sent, x, y)
    optimizer.zero_grad()
    differences = [(sent[name] - back[name]).detach() for name in sent]
    torch.autograd.backward(list(sent.values()), differences)
    optimizer.step()


def join(hnet: hl.HyperNetwork, x: Tensor, y: Tensor, rounds: int, rate: float) -> Tensor:
    """Add clients by fitting their embeddings alone; return their ids `(B,)`.

    Nothing that was learned for others changes: their networks stay bitwise the same.

    Args:
        hnet: The server's generator; it gets more ids.
        x: Images of the new clients `(B, n, 64)`.
        y: Their digits `(B, n)`.
        rounds: As `serve`, with the new clients.
        rate: Of Adam, on the embeddings.
    """
    optimizer = torch.optim.Adam(hnet.add_conditions(len(x)), rate)
    num = hnet.plan.num_ids or 0
    ids = torch.arange(num - len(x), num)
    for _ in range(rounds):
        serve(hnet.generate, hnet.run, optimizer, ids, x, y)
    return ids


@torch.no_grad()
def right(run: Run, theta: Weights, x: Tensor, y: Tensor) -> float:
    """Return the mean over clients of their networks' right answers, in percent."""
    return 100 * float((run(theta, x).argmax(-1) == y).float().mean())
