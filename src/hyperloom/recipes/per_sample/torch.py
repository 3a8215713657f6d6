"""The generator, gradients of single images, a private step, and curvature in a condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, vmap

import hyperloom.torch as hl
from hyperloom.recipes.per_sample.data import GROUPS, Images

DIM, TRUNK, WIDTH, LOT = 8, 16, 24, 256
Parameters = Mapping[str, Tensor]
# Parameters, a group () and an image (64,) -> logits (10,).
Logits = Callable[[Parameters, Tensor, Tensor], Tensor]


class Privacy(NamedTuple):
    """How a step is private.

    Attributes:
        clip: The largest norm of one image's gradient.
        noise: Standard deviation of the noise, over `clip`.
    """

    clip: float
    noise: float


def _target(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))


def hypernetwork(seed: int) -> hl.HyperNetwork:
    """Return the generator of classifiers 64-24-10, one for each group."""
    condition = hl.Embedding(GROUPS, DIM)
    return hl.HyperNetwork(_target(seed), condition=condition, trunk=hl.MLP(TRUNK, norm=None))


def separate(seed: int) -> hl.HyperNetwork:
    """Return a classifier of its own for each group, which share nothing."""
    layout = hl.PerCondition()
    return hl.HyperNetwork(_target(seed), condition=hl.Embedding(GROUPS, 1), layout=layout)


def of(hnet: hl.HyperNetwork) -> Logits:
    """Return the logits of one image by the network of its group."""
    return lambda parameters, group, image: functional_call(
        hnet, dict(parameters), (image.unsqueeze(0),), {"condition": group}
    ).squeeze(0)


def gradients(
    logits: Logits, parameters: Parameters, groups: Tensor, images: Tensor, digits: Tensor
) -> dict[str, Tensor]:
    """Return the gradient of every image's own loss, `(N, *shape)` for each parameter.

    Args:
        logits: Of one image.
        parameters: The generator's.
        groups: `(N,)`.
        images: `(N, 64)`.
        digits: `(N,)`.
    """

    def loss(parameters: Parameters, group: Tensor, image: Tensor, digit: Tensor) -> Tensor:
        return F.cross_entropy(logits(parameters, group, image), digit)

    return vmap(grad(loss), (None, 0, 0, 0))(dict(parameters), groups, images, digits)


def lots(images: Images, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield lots for ever: every image is in a lot with the same probability, by itself."""
    draws = np.random.default_rng(seed)
    while True:
        rows = np.flatnonzero(draws.random(len(images.digits)) < LOT / len(images.digits))
        groups, pixels, digits = (torch.from_numpy(part[rows]) for part in images)
        yield groups, pixels, digits


def step_of(
    logits: Logits, net: nn.Module, rate: float, privacy: Privacy | None, seed: int
) -> Callable[[Tensor, Tensor, Tensor], None]:
    """Return a step of Adam on a lot: groups, images, digits.

    With `privacy`, each image's gradient is clipped by its norm over all parameters and noise is
    added to the sum: DP-SGD, Abadi et al., CCS 2016.
    """
    parameters = dict(net.named_parameters())
    optimizer = torch.optim.Adam(parameters.values(), rate)
    draws = torch.Generator().manual_seed(seed)

    def step(groups: Tensor, images: Tensor, digits: Tensor) -> None:
        detached = {name: value.detach() for name, value in parameters.items()}
        each = gradients(logits, detached, groups, images, digits)
        shares = torch.ones(len(groups))
        if privacy is not None:
            norms = sum(g.flatten(1).square().sum(1) for g in each.values())
            shares = (privacy.clip / torch.as_tensor(norms).sqrt()).clamp(max=1)
        for name, value in parameters.items():
            total = torch.tensordot(shares, each[name], 1)
            if privacy is not None:
                noise = torch.randn(total.shape, generator=draws)
                total += privacy.clip * privacy.noise * noise
            value.grad = total / LOT
        optimizer.step()

    return step


@torch.no_grad()
def accuracy(hnet: hl.HyperNetwork, images: Images) -> np.ndarray:
    """Return the share of right answers of each group's network on its own images."""
    groups, pixels, digits = (torch.from_numpy(part) for part in images)
    said = hnet(pixels, condition=range(GROUPS), rows=groups).argmax(-1)
    return np.array([(said == digits)[groups == g].float().mean() for g in range(GROUPS)])


def curvature(hnet: hl.HyperNetwork, images: Images) -> Tensor:
    """Return the Hessians of the groups' losses in the groups' own vectors, `(GROUPS, DIM, DIM)`.

    The loss of a group is that of the network that its vector makes; the Hessians of all groups
    are one call.
    """
    vectors = hnet.encode(range(GROUPS)).vector.detach()
    groups, pixels, digits = (torch.from_numpy(part) for part in images)
    num = min(int((groups == g).sum()) for g in range(GROUPS))
    rows = torch.stack([(groups == g).nonzero()[:num, 0] for g in range(GROUPS)])

    def loss(vector: Tensor, pixels: Tensor, digits: Tensor) -> Tensor:
        table = {"condition.table.0": vector.expand(GROUPS, -1)}  # whatever the id
        logits = functional_call(hnet, table, (pixels,), {"condition": 0})
        return F.cross_entropy(logits, digits)

    return vmap(hessian(loss))(vectors, pixels[rows], digits[rows]).detach()
