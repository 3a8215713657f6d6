"""A scale and a shift of its own for each condition (FiLM), on a shared layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

import hyperloom.torch as hl
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, within

KEY, SHARED = "B 1024, 256x256", "shared linear"
CONDITIONS, SIZE, WIDTH = 1024, 256, 16


def contestants(setting: Setting) -> list[Contestant]:
    torch.manual_seed(0)
    device = setting.device
    num, size = (5, 12) if setting.tiny else (CONDITIONS, SIZE)
    layer = nn.Linear(size, size).to(device)
    form = {"weight": hl.Scale(trained=True), "bias": hl.Shift(trained=True)}
    hnet = hl.HyperNetwork(layer, condition=hl.Vector(WIDTH), form=form)
    head: Any = hnet.heads["full"]
    with torch.no_grad():
        for p in head.parameters():  # they start at zero
            p.normal_(std=0.1)
    c = torch.randn(num, WIDTH, device=device, requires_grad=True)
    x = torch.randn(num, size, device=device, requires_grad=True)
    g = torch.randn(num, size, device=device)
    weight, bias = layer.weight, layer.bias
    base = [hnet.get_parameter(f"bases.{name}") for name in ("weight", "bias")]
    heads = [p.detach().clone().requires_grad_() for p in head.weight.split(size)]
    shifts = [p.detach().clone().requires_grad_() for p in head.bias.split(size)]
    run = vmap(lambda params, x: functional_call(layer, params, (x,)))

    def gradients(y: Tensor, leaves: list[Any]) -> tuple[Tensor, ...]:
        return (y, *torch.autograd.grad(y, [x, *leaves], g))

    def made() -> list[Tensor]:
        return [F.linear(c, w, b) for w, b in zip(heads, shifts, strict=True)]

    def ours() -> Any:
        return gradients(hnet(x, condition=c), [c, *base, head.weight, head.bias])

    def shared() -> Any:
        return gradients(F.linear(x, weight, bias), [weight, bias])

    def by_hand() -> Any:
        scale, shift = made()
        y = torch.addcmul(bias + shift, F.linear(x, weight), 1 + scale)
        return gradients(y, [c, weight, bias, *heads, *shifts])

    def formed() -> dict[str, Tensor]:
        scale, shift = made()
        return {"weight": weight * (1 + scale).unsqueeze(-1), "bias": bias + shift}

    def formed_bmm() -> Any:
        own = formed()
        y = torch.bmm(own["weight"], x.unsqueeze(-1)).squeeze(-1) + own["bias"]
        return gradients(y, [c, weight, bias, *heads, *shifts])

    def formed_vmap() -> Any:
        return gradients(run(formed(), x), [c, weight, bias, *heads, *shifts])

    names = ["y", "x", "c", "weight", "bias", "head weight", "head bias"]

    def results(made: Any) -> dict[str, Tensor]:
        return dict(zip(names, made, strict=True))

    def joined(made: Any) -> dict[str, Tensor]:
        return results([*made[:5], torch.cat(made[5:7]), torch.cat(made[7:])])

    return [
        Contestant("hyperloom", ours, results, "ours"),
        Contestant(SHARED, shared, None, "reference"),
        Contestant("hand FiLM", by_hand, joined, "reference"),
        Contestant("formed, bmm", formed_bmm, joined),
        Contestant("formed, vmap", formed_vmap, joined),
    ]


def workloads(setting: Setting) -> list[Workload]:
    return [Workload(KEY, lambda: contestants(setting), seconds=8, memory=True)]


def judge(results: Results) -> list[Claim]:
    return [within(results[KEY], 1.25, "FiLM, generator included", SHARED)]


CASE = Case(
    "film",
    "Scale and shift (FiLM)",
    [
        "`Linear(256, 256)` whose rows are scaled and whose bias is shifted for each of 1024 "
        "conditions with one row each; scale and shift are linear in a condition of width 16, and "
        "all of it is learned. shared linear: the layer alone, the same for all rows.",
    ],
    workloads,
    judge,
)
