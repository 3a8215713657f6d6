"""Targets of many kinds, beside what is written by hand and beside the bare work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import hyperloom.torch as hl
from benchmarks import _limits_hand as hand
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload

WIDTH = 16
BARE = "bare work"
HAND = "by hand"


@dataclass(frozen=True)
class Kind:
    """A target, its input, and how it is run by hand.

    Attributes:
        target: Builds it, and a small one for tests.
        shape: Of its input `(B, n, ...)`, and of a small one.
        by_hand: From the target, the tensors of all conditions by name and the input to the output.
        bare: From the same to what has to be computed whatever one does: the products and
            convolutions, of inputs as large as the layers'. Returns one tensor.
        reach: The ratio to what is written by hand that is aimed at.
    """

    target: Callable[[bool], nn.Module]
    shape: tuple[tuple[int, ...], tuple[int, ...]]
    by_hand: Callable[[Any, Mapping[str, Tensor], Tensor], Tensor]
    bare: Callable[[Any, Mapping[str, Tensor], Tensor], Tensor]
    reach: float = 1.0


class First(nn.Module):
    """The first of what a module returns."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[0]


class Sine(nn.Module):
    """An activation of the user's own."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


def _field(tiny: bool) -> nn.Module:
    size = 8 if tiny else 64
    layers = [nn.Linear(2, size), Sine(3.0), nn.Linear(size, size), Sine(3.0), nn.Linear(size, 3)]
    return nn.Sequential(*layers)


def _conv(channels: int) -> Callable[[bool], nn.Module]:
    return lambda tiny: nn.Conv2d(*(4, 4) if tiny else (channels, channels), 3, padding=1)


def _cnn(tiny: bool) -> nn.Module:
    a, b, side = (2, 3, 8) if tiny else (8, 16, 28)
    first, second = nn.Conv2d(1, a, 3, padding=1), nn.Conv2d(a, b, 3, padding=1)
    body = [first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(b * (side // 4) ** 2, 10))


def _lstm(tiny: bool) -> nn.Module:
    size = 4 if tiny else 32
    return First(nn.LSTM(size, size, batch_first=True))


def _encoder(tiny: bool) -> nn.Module:
    size = 8 if tiny else 64
    return nn.TransformerEncoderLayer(size, 2, 2 * size, dropout=0.0, batch_first=True)


KINDS = {
    "sine field 2-64-64-3, B 32, n 1024": Kind(
        _field, ((32, 1024, 2), (3, 5, 2)), hand.field, hand.field_products
    ),
    "conv 16 to 16, 28x28, B 64, n 1": Kind(
        _conv(16), ((64, 1, 16, 28, 28), (3, 1, 4, 6, 6)), hand.conv, hand.bare_conv, 0.97
    ),
    "conv 64 to 64, 14x14, B 16, n 4": Kind(
        _conv(64), ((16, 4, 64, 14, 14), (3, 2, 4, 6, 6)), hand.conv, hand.bare_conv, 0.97
    ),
    "CNN, 28x28, B 32, n 8": Kind(
        _cnn, ((32, 8, 1, 28, 28), (3, 2, 1, 8, 8)), hand.cnn, hand.cnn_layers, 0.97
    ),
    "LSTM 32, B 32, n 4, T 24": Kind(
        _lstm, ((32, 4, 24, 32), (3, 2, 3, 4)), hand.lstm, hand.lstm_products
    ),
    "transformer encoder layer 64, B 16, n 2, T 32": Kind(
        _encoder, ((16, 2, 32, 64), (3, 2, 4, 8)), hand.encoder, hand.encoder_products, 1.05
    ),
}


def contestants(kind: Kind, setting: Setting) -> list[Contestant]:
    torch.manual_seed(0)
    device, shape = setting.device, kind.shape[setting.tiny]
    target = kind.target(setting.tiny).to(device)
    hnet = hl.HyperNetwork(target, condition=hl.Vector(WIDTH)).to(device)
    head: Any = hnet.heads["full"]
    shapes = {name: p.shape for name, p in target.named_parameters()}
    numels = [s.numel() for s in shapes.values()]
    c = torch.randn(shape[0], WIDTH, device=device, requires_grad=True)
    x = torch.randn(shape, device=device, requires_grad=True)
    leaves = [c, x, head.weight, head.bias]
    g = torch.randn_like(hnet(x, condition=c))

    def made() -> dict[str, Tensor]:
        numbers = (c @ head.weight.mT + head.bias).split(numels, -1)
        return {n: v.view(-1, *s) for v, (n, s) in zip(numbers, shapes.items(), strict=True)}

    def gradients(y: Tensor) -> tuple[Tensor, ...]:
        return (y, *torch.autograd.grad(y, leaves, g))

    def ours() -> Any:
        return gradients(hnet(x, condition=c))

    def by_hand() -> Any:
        return gradients(kind.by_hand(target, made(), x))

    def loop() -> Any:
        tensors = made()
        each = ({name: t[i] for name, t in tensors.items()} for i in range(len(c)))
        rows = [functional_call(target, t, (row,)) for t, row in zip(each, x, strict=True)]
        return gradients(torch.stack(rows))

    own = {name: t.detach().requires_grad_() for name, t in made().items()}

    def bare() -> Any:
        y = kind.bare(target, own, x)
        return torch.autograd.grad(y, [x, *own.values()], torch.ones_like(y), allow_unused=True)

    def results(made: Any) -> dict[str, Tensor]:
        return dict(zip(["y", "c", "x", "weight", "bias"], made, strict=True))

    return [
        Contestant("hyperloom", ours, results, "ours"),
        Contestant(HAND, by_hand, results),
        Contestant("loop", loop, results, "reference"),
        Contestant(BARE, bare, None, "reference"),
    ]


def workloads(setting: Setting) -> list[Workload]:
    return [
        Workload(
            key,
            lambda kind=kind: contestants(kind, setting),
            seconds=6,
            memory=True,
            tolerance=1e-4,
        )
        for key, kind in KINDS.items()
    ]


def judge(results: Results) -> list[Claim]:
    claims = []
    for key, times in results.items():
        ours, theirs = times["hyperloom"], times[HAND]
        ratio = theirs.median / ours.median
        claims.append(Claim(f"{key}: times as fast as by hand", ratio, KINDS[key].reach))
        if ours.peak is not None and theirs.peak:
            claims.append(Claim(f"{key}: memory over by hand", ours.peak / theirs.peak, most=1.05))
    return claims


def table(workloads: Sequence[Workload], results: Results) -> list[list[str]]:
    """Return a line for each workload: its time, and the two ratios."""
    lines = [["work", "ms", "by hand / ours", "fastest", "bare / ours", "peak MB", "to by hand"]]
    for workload in workloads:
        times = results[workload.key]
        ours, theirs, bare = (times[name] for name in ("hyperloom", HAND, BARE))
        line = [workload.key, f"{1e3 * ours.median:.4g}", f"{theirs.median / ours.median:.2f}"]
        line += [f"{min(theirs.seconds) / min(ours.seconds):.2f}"]
        line += [f"{bare.median / ours.median:.2f}"]
        known = ours.peak is not None and bool(theirs.peak)
        peak = (ours.peak or math.nan) / (theirs.peak or math.nan)
        line += [f"{(ours.peak or 0) / 1e6:.4g}", f"{peak:.2f}"] if known else ["–", "–"]
        lines.append(line)
    return lines


CASE = Case(
    "limits",
    "Targets of many kinds: by hand, and the bare work",
    [
        "Each target with all its tensors linear in a condition of width 16. by hand: the same "
        "products, written for this target with the conditions in front. bare work: its matrix "
        "products or convolutions alone, forward and backward, with weights that are there: no "
        "implementation that forms the weights can do without. Ratios above 1: hyperloom is "
        "faster. *fastest* is the ratio of the shortest repeats.",
    ],
    workloads,
    judge,
    table,
    tolerance=1e-4,
)
