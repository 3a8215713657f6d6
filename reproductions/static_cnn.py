"""A CNN whose second layer is generated from a few numbers (Ha, Dai and Le 2016, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from hyperloom.recipes.mnist import torch as cnn
from hyperloom.recipes.mnist.torch import BATCH, GENERATED, WIDTH
from reproductions._digits import SPLIT, load_digits
from reproductions._result import Kept, Step, Track, claim, mean_and_range, result, silent, table

TITLE = "Static hypernetwork for an MNIST CNN, on 10,000 digits"
SOURCE = (
    "Ha, Dai and Le, HyperNetworks, ICLR 2017, section 4.1: 99.24 % against 99.28 % plain on all "
    "60,000 digits; 98.0 against 98.2 when it was run on these 10,000"
)
SEEDS = (0, 1, 2)


def train(data: Path | None, seed: int, generated: bool, epochs: int, step: Step) -> float:
    """Train one network; return its test accuracy in %."""
    torch.manual_seed(seed)
    train_x, train_y, test_x, test_y = load_digits(data)
    model = cnn.hypernetwork() if generated else cnn.plain()
    kwargs: dict[str, Any] = {"condition": 0} if generated else {}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train_x, test_x = train_x.view(-1, 1, 28, 28), test_x.view(-1, 1, 28, 28)
    for _ in range(epochs):
        for rows in torch.randperm(len(train_x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(cnn.shifted(train_x[rows]), **kwargs), train_y[rows]).backward()
            optimizer.step()
            step()
    with torch.no_grad():
        return 100 * (model(test_x, **kwargs).argmax(-1) == test_y).double().mean().item()


def run(
    data: Path | None,
    track: Track = silent,
    seeds: Sequence[int] = SEEDS,
    epochs: int = 30,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """Train both networks from every seed; those in `kept` are not trained again."""
    step = track(TITLE, 2 * len(seeds) * epochs * 8000 // BATCH)
    kept = kept or Kept()

    def accuracy(seed: int, generated: bool) -> float:
        part = f"{'generated' if generated else 'plain'}, seed {seed}, {epochs} epochs"
        return kept.get(part, lambda: train(data, seed, generated, epochs, step))

    pairs = [(accuracy(seed, False), accuracy(seed, True)) for seed in seeds]
    plain, ours = ([pair[i] for pair in pairs] for i in (0, 1))
    hnet = cnn.hypernetwork()
    learned, numel = cnn.learned(hnet), hnet.plan.spec[GENERATED].numel
    gap = sum(plain) / len(plain) - sum(ours) / len(ours)
    shown = "one seed" if len(seeds) == 1 else f"means of {len(seeds)} seeds"
    claims = [
        claim(
            f"points lost against the plain CNN, {shown}",
            [gap],
            most=0.5,
            published="0.04 (60,000 digits), 0.2 (these)",
        ),
        claim(
            f"learned numbers that the second kernel's {numel} are generated from",
            [learned],
            most=4244,
            published="4244",
            digits=0,
        ),
    ]
    rows = [
        [f"seed {s}", f"{a:.2f}", f"{b:.2f}"] for s, a, b in zip(seeds, plain, ours, strict=True)
    ]
    title = (
        "Test accuracy in %, mean (lowest – highest seed): plain "
        f"{mean_and_range(plain, 2)}, generated {mean_and_range(ours, 2)}."
    )
    tables = [table(title, ["run", "plain", "second kernel generated"], rows)]
    return result(TITLE, SOURCE, setup(epochs), claims, tables, {"plain": plain, "ours": ours})


def setup(epochs: int) -> list[str]:
    """Return what was run, in words."""
    hnet = cnn.hypernetwork()
    return [
        f"{SPLIT}; padded to 30x30 and cut to 28x28 at random while training.",
        "Convolution 7x7x16, pool, convolution 7x7x16, pool, linear, with ReLU; Adam 1e-3; batch "
        f"{BATCH}; {epochs} epochs.",
        f"The second kernel's {hnet.plan.spec[GENERATED].numel} numbers come from "
        f"{cnn.learned(hnet)}, as published: an embedding of {WIDTH}; a linear layer "
        f"of its own for each of the 16 input channels, to {WIDTH} features; and one linear layer "
        "for all, to the 784 numbers of a channel. All other tensors are learned as they are "
        "(Shared).",
        "Other than published: the start, which is this library's default: the kernel starts out "
        "with the variance of PyTorch's own.",
    ]
