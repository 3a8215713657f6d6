"""The CNN, the generator of its second kernel, and their training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.recipes.mnist.data import Digits

GENERATED = "3.weight"  # (16, 16, kernel, kernel), input channels first
CHANNELS = 16
WIDTH = 4  # of the layer's embedding z, and of the features a
BATCH = 100


def kernel_of(size: int) -> int:
    """Return the kernels' size for images of a size: 7 as published for 28, 3 for 8."""
    return 7 if size >= 28 else 3


def plain(size: int = 28) -> nn.Sequential:
    """Return the CNN for images `(1, size, size)`; the published one for 28."""
    kernel = kernel_of(size)
    pad = kernel // 2
    return nn.Sequential(
        nn.Conv2d(1, CHANNELS, kernel, padding=pad),
        nn.ReLU(),
        nn.MaxPool2d(2),
        # With stride 1 this is Conv2d with its kernel mirrored. Its weight has the input channels
        # first, which are what the paper generates one by one.
        nn.ConvTranspose2d(CHANNELS, CHANNELS, kernel, padding=pad),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(CHANNELS * (size // 4) ** 2, 10),
    )


class OwnLinear(nn.Module):
    """The first of the two linear layers: `a_i = W_i z + B_i`, with `W_i` and `B_i` of slot i.

    `W_i` and `B_i` are the slot's embedding, so the module has no parameters of its own. They and
    z start at variance 1; the division gives `a` variance 1, which is what a head expects.
    """

    dim = WIDTH

    def forward(self, x: Tensor) -> Tensor:
        """`(rows, WIDTH + WIDTH * (WIDTH + 1))` -> `(rows, WIDTH)`."""
        z, own = x.split([WIDTH, WIDTH * (WIDTH + 1)], dim=1)
        own = own.view(-1, WIDTH, WIDTH + 1)
        a = torch.einsum("rij,rj->ri", own[..., :-1], z) + own[..., -1]
        return a / (WIDTH + 1) ** 0.5


def hypernetwork(size: int = 28) -> hl.HyperNetwork:
    """Generate the second kernel, one input channel a slot; learn the rest as it is."""
    channel = CHANNELS * kernel_of(size) ** 2
    return hl.HyperNetwork(
        plain(size),
        condition=hl.Embedding(1, WIDTH),
        trunk=OwnLinear(),
        layout={GENERATED: hl.Chunked(channel, embedding=WIDTH * (WIDTH + 1)), "*": hl.Shared()},
    )


def learned(hnet: hl.HyperNetwork) -> int:
    """Return how many numbers are learned to generate the second kernel."""
    shared = sum(p.numel() for name, p in hnet.named_parameters() if "shared" in name)
    return sum(p.numel() for p in hnet.parameters()) - shared


def shifted(x: Tensor) -> Tensor:
    """Pad images `(n, 1, size, size)` by 1 and cut as many pixels out at random, a place each."""
    n, size = len(x), x.shape[-1]
    padded = F.pad(x, (1, 1, 1, 1))
    down, right = torch.randint(3, (2, n, 1))
    rows = (down + torch.arange(size)).view(n, size, 1)
    columns = (right + torch.arange(size)).view(n, 1, size)
    return padded[torch.arange(n).view(n, 1, 1), 0, rows, columns].unsqueeze(1)


def batches(digits: Digits, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shifted images and labels in batches of 100, for ever."""
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    torch.manual_seed(seed)
    while True:
        for rows in torch.randperm(len(labels)).split(BATCH):
            yield shifted(images[rows]), labels[rows]


def step_of(net: nn.Module, rate: float, **kwargs: Any) -> Callable[[Tensor, Tensor], float]:
    """Return a step of Adam: images, labels -> loss. Other keywords go to the network."""
    # The head's rate is divided by its features, so that the kernel moves as a plain one does.
    made = isinstance(net, hl.HyperNetwork)
    optimizer = torch.optim.Adam(hl.param_groups(net, rate) if made else net.parameters(), rate)

    def step(images: Tensor, labels: Tensor) -> float:
        loss = F.cross_entropy(net(images, **kwargs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@torch.no_grad()
def accuracy(net: nn.Module, digits: Digits, **kwargs: Any) -> float:
    """Return the share of right answers."""
    said = net(torch.from_numpy(digits.images), **kwargs).argmax(-1)
    return float((said.numpy() == digits.labels).mean())


@torch.no_grad()
def kernels(net: nn.Module) -> np.ndarray:
    """Return the second kernel `(16, 16, kernel, kernel)`, generated or not."""
    made = net.generate(0) if isinstance(net, hl.HyperNetwork) else dict(net.named_parameters())
    return made[GENERATED].numpy()
