"""A convolution of its own for each condition."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

import hyperloom.torch as hl
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, within

KEY = "16 to 16 channels, 28x28, B 64"
WIDTH = 16


def contestants(setting: Setting) -> list[Contestant]:
    torch.manual_seed(0)
    device = setting.device
    num, channels, side = (3, 4, 6) if setting.tiny else (64, 16, 28)
    layer = nn.Conv2d(channels, channels, 3, padding=1).to(device)
    hnet = hl.HyperNetwork(layer, condition=hl.Vector(WIDTH))
    head: Any = hnet.heads["full"]
    c = torch.randn(num, WIDTH, device=device, requires_grad=True)
    x = torch.randn(num, 1, channels, side, side, device=device, requires_grad=True)
    g = torch.randn(num, 1, channels, side, side, device=device)
    numels = [p.numel() for p in layer.parameters()]
    weights = [p.detach().clone().requires_grad_() for p in head.weight.split(numels)]
    biases = [p.detach().clone().requires_grad_() for p in head.bias.split(numels)]
    run = vmap(lambda w, b, x: functional_call(layer, {"weight": w, "bias": b}, (x,)))

    def gradients(y: Tensor, leaves: list[Any]) -> tuple[Tensor, ...]:
        return (y, *torch.autograd.grad(y, [c, x, *leaves], g))

    def made() -> tuple[Tensor, Tensor]:
        kernel, bias = (F.linear(c, w, b) for w, b in zip(weights, biases, strict=True))
        return kernel.view(num, *layer.weight.shape), bias

    def ours() -> Any:
        return gradients(hnet(x, condition=c), [head.weight, head.bias])

    def grouped() -> Any:
        kernel, bias = made()
        flat = x.view(1, num * channels, side, side)
        y = F.conv2d(flat, kernel.flatten(0, 1), bias.flatten(), padding=1, groups=num)
        return gradients(y.view(x.shape), [*weights, *biases])

    def by_vmap() -> Any:
        return gradients(run(*made(), x), [*weights, *biases])

    def loop() -> Any:
        each = zip(*(t.unbind() for t in made()), x.unbind(), strict=True)
        y = torch.stack([F.conv2d(x, w, b, padding=1) for w, b, x in each])
        return gradients(y, [*weights, *biases])

    def results(made: Any) -> dict[str, Tensor]:
        return dict(zip(["y", "c", "x", "weight", "bias"], made, strict=True))

    def joined(made: Any) -> dict[str, Tensor]:
        return results([*made[:3], torch.cat(made[3:5]), torch.cat(made[5:])])

    return [
        Contestant("hyperloom", ours, results, "ours"),
        Contestant("grouped", grouped, joined),
        Contestant("vmap", by_vmap, joined),
        Contestant("loop", loop, joined),
    ]


def workloads(setting: Setting) -> list[Workload]:
    return [Workload(KEY, lambda: contestants(setting), seconds=8, memory=True)]


def judge(results: Results) -> list[Claim]:
    return [within(results[KEY], 1.1, "convolution")]


CASE = Case(
    "conv",
    "Convolution",
    [
        "`Conv2d(16, 16, 3, padding=1)` on one 28x28 image for each of 64 conditions; kernel and "
        "bias are linear in a condition of width 16. grouped: one call with `groups=B`. vmap: "
        "`vmap(functional_call)`. loop: a call for each condition.",
        "hyperloom runs the layer under vmap, which makes the same grouped convolution and adds "
        "the bias in a pass of its own.",
    ],
    workloads,
    judge,
)
