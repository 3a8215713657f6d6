"""A CNN whose second layer is generated from a few numbers (Ha, Dai and Le 2016, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from reproductions._digits import SPLIT, load_digits
from reproductions._result import Kept, Step, Track, claim, mean_and_range, result, silent, table

TITLE = "Static hypernetwork for an MNIST CNN, on 10,000 digits"
SOURCE = (
    "Ha, Dai and Le, HyperNetworks, ICLR 2017, section 4.1: 99.24 % against 99.28 % plain on all "
    "60,000 digits; 98.0 against 98.2 when it was run on these 10,000"
)
SEEDS = (0, 1, 2)
BATCH = 100
GENERATED = "3.weight"  # 16 x 16 x 7 x 7, input channels first
WIDTH = 4  # of the layer's embedding z, and of the features a


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


def make_plain() -> nn.Sequential:
    """Return the published CNN: 7x7x16, pool, 7x7x16, pool, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 7, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        # With stride 1 this is Conv2d(16, 16, 7, padding=3) with its kernel mirrored. Its weight
        # has the input channels first, which are what the paper generates one by one.
        nn.ConvTranspose2d(16, 16, 7, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 10),
    )


def make_hypernetwork() -> hl.HyperNetwork:
    """Generate the second kernel, one input channel a chunk; learn the rest as it is."""
    slot = WIDTH * (WIDTH + 1)
    return hl.HyperNetwork(
        make_plain(),
        condition=hl.Embedding(1, WIDTH),
        trunk=OwnLinear(),
        layout={GENERATED: hl.Chunked(16 * 7 * 7, embedding=slot), "*": hl.Shared()},
    )


def second_layer_parameters(hnet: hl.HyperNetwork) -> int:
    """Return how many numbers are learned to generate the second kernel."""
    shared = sum(p.numel() for name, p in hnet.named_parameters() if "shared" in name)
    return sum(p.numel() for p in hnet.parameters()) - shared


def shifted(x: Tensor) -> Tensor:
    """Pad digits `(n, 1, 28, 28)` to 30x30 and cut 28x28 out at random, a place for each."""
    padded = F.pad(x, (1, 1, 1, 1))
    n = len(x)
    down, right = torch.randint(3, (2, n, 1))
    rows = (down + torch.arange(28)).view(n, 28, 1)
    columns = (right + torch.arange(28)).view(n, 1, 28)
    return padded[torch.arange(n).view(n, 1, 1), 0, rows, columns].unsqueeze(1)


def train(data: Path | None, seed: int, generated: bool, epochs: int, step: Step) -> float:
    """Train one network; return its test accuracy in %."""
    torch.manual_seed(seed)
    train_x, train_y, test_x, test_y = load_digits(data)
    model = make_hypernetwork() if generated else make_plain()
    kwargs: dict[str, Any] = {"condition": 0} if generated else {}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train_x, test_x = train_x.view(-1, 1, 28, 28), test_x.view(-1, 1, 28, 28)
    for _ in range(epochs):
        for rows in torch.randperm(len(train_x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(shifted(train_x[rows]), **kwargs), train_y[rows]).backward()
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
    hnet = make_hypernetwork()
    learned, numel = second_layer_parameters(hnet), hnet.plan.spec[GENERATED].numel
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
    hnet = make_hypernetwork()
    return [
        f"{SPLIT}; padded to 30x30 and cut to 28x28 at random while training.",
        "Convolution 7x7x16, pool, convolution 7x7x16, pool, linear, with ReLU; Adam 1e-3; batch "
        f"{BATCH}; {epochs} epochs.",
        f"The second kernel's {hnet.plan.spec[GENERATED].numel} numbers come from "
        f"{second_layer_parameters(hnet)}, as published: an embedding of {WIDTH}; a linear layer "
        f"of its own for each of the 16 input channels, to {WIDTH} features; and one linear layer "
        "for all, to the 784 numbers of a channel. All other tensors are learned as they are "
        "(Shared).",
        "Other than published: the start, which is this library's default: the kernel starts out "
        "with the variance of PyTorch's own.",
    ]
