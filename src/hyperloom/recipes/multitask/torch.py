"""A classifier from a sentence: the generator, its training, and one network that is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.recipes.multitask.data import Tasks

WIDTH, TRUNK, TASKS, IMAGES = 24, 64, 32, 64
# Of Adam; with `param_groups` the heads get the second one divided by their 64 features.
RATE, HYPER_RATE = 2e-3, 5e-2
Logits = Callable[[Tensor, Tensor], Tensor]  # vectors (B, words), images (B, n, 64) -> (B, n)


def hypernetwork(words: int, seed: int) -> hl.HyperNetwork:
    """Return the generator of classifiers 64-24-1."""
    torch.manual_seed(seed)
    target = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
    return hl.HyperNetwork(target, condition=hl.Vector(words), trunk=hl.MLP(TRUNK, norm=None))


def of(hnet: hl.HyperNetwork) -> Logits:
    """Return the logits of each task's own network on its images."""
    return lambda vectors, images: hnet(images, condition=vectors).squeeze(-1)


class Told(nn.Module):
    """One network that reads the description beside the image: what one does otherwise.

    Args:
        words: Length of a description.
        size: How many parameters it may have, about.
        seed: Of its start.
    """

    def __init__(self, words: int, size: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        ins = 64 + words
        width = int((-(ins + 2) + ((ins + 2) ** 2 + 4 * size) ** 0.5) / 2)
        self.layers = nn.Sequential(
            nn.Linear(ins, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, vectors: Tensor, images: Tensor) -> Tensor:
        """Return the logits `(B, n)` of n images for each of B descriptions."""
        beside = vectors.unsqueeze(1).expand(-1, images.shape[1], -1)
        return self.layers(torch.cat([images, beside], -1)).squeeze(-1)


def batches(tasks: Tasks, seed: int) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Yield vectors, images and answers of tasks drawn from those that are seen, for ever."""
    draws = np.random.default_rng(seed)
    images, digits = tasks.images[0], tasks.digits[0]
    while True:
        which = draws.choice(tasks.seen, TASKS)
        rows = draws.integers(len(images), size=(TASKS, IMAGES))
        asked = np.take_along_axis(tasks.sets[which], digits[rows], 1)
        yield (
            torch.from_numpy(tasks.vectors[which]),
            torch.from_numpy(images[rows]),
            torch.from_numpy(asked),
        )


def step_of(
    logits: Logits, parameters: Iterable[Tensor], rate: float = RATE
) -> Callable[..., float]:
    """Return one training step: vectors, images, answers -> loss."""
    optimizer = torch.optim.Adam(list(parameters), rate)

    def step(vectors: Tensor, images: Tensor, asked: Tensor) -> float:
        loss = F.binary_cross_entropy_with_logits(logits(vectors, images), asked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@torch.no_grad()
def accuracy(logits: Logits, tasks: Tasks, which: np.ndarray) -> np.ndarray:
    """Return the share of right answers on the test images for each task, both answers alike."""
    images = torch.from_numpy(tasks.images[1]).expand(len(which), -1, -1)
    said = logits(torch.from_numpy(tasks.vectors[which]), images).numpy() > 0
    asked = tasks.sets[which][:, tasks.digits[1]] > 0
    yes = (said & asked).sum(1) / asked.sum(1)
    no = (~said & ~asked).sum(1) / (~asked).sum(1)
    return (yes + no) / 2
