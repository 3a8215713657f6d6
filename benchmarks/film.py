"""A scale and a shift of its own for each condition (FiLM), on a shared layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

import hyperloom.torch as hl
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, within

SHARED = "shared linear"
SIZE, WIDTH = 256, 16
KEYS = {  # source, conditions, rows of each
    "looked up by id, B 1024, n 1": ("table", 1024, 1),
    "generated, B 64, n 16": ("generated", 64, 16),
    "generated, B 1024, n 1": ("generated", 1024, 1),
}


class Problem:
    """Where scale and shift come from, and the numbers that all contestants share."""

    def __init__(self, key: str, setting: Setting) -> None:
        torch.manual_seed(0)
        device = setting.device
        source, self.num, rows = KEYS[key]
        self.size = SIZE
        if setting.tiny:
            self.num, rows, self.size = 5, min(rows, 3), 12
        self.layer = nn.Linear(self.size, self.size).to(device)
        self.is_table = source == "table"
        self.hnet = hl.HyperNetwork(
            self.layer,
            condition=hl.Embedding(self.num, 1) if self.is_table else hl.Vector(WIDTH),
            layout=hl.PerCondition() if self.is_table else hl.Full(),
            form={"weight": hl.Scale(trained=True), "bias": hl.Shift(trained=True)},
        )
        head: Any = self.hnet.heads["per_condition" if self.is_table else "full"]
        with torch.no_grad():
            for p in head.parameters():  # they start at zero
                p.normal_(std=0.1)
        self.x = torch.randn(self.num, rows, self.size, device=device, requires_grad=True)
        self.g = torch.randn(self.num, rows, self.size, device=device)
        self.base = [self.hnet.get_parameter(f"bases.{name}") for name in ("weight", "bias")]
        if self.is_table:
            self.condition: Tensor = torch.arange(self.num, device=device)
            self.inputs, self.leaves = [self.x], [head.table[0]]
            parts = head.table[0].split(self.size, 1)
        else:
            self.condition = torch.randn(self.num, WIDTH, device=device, requires_grad=True)
            self.inputs, self.leaves = [self.x, self.condition], [head.weight, head.bias]
            parts = (*head.weight.split(self.size), *head.bias.split(self.size))
        self.own = [p.detach().clone().requires_grad_() for p in parts]

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return `1 + s` and `bias + t`, `(B, 1, size)`, by hand."""
        bias = self.layer.bias
        if self.is_table:
            scale, shift = (F.embedding(self.condition, p).unsqueeze(1) for p in self.own)
            return 1 + scale, bias + shift
        # Into the heads' biases, where a constant costs nothing.
        scale = F.linear(self.condition, self.own[0], self.own[2] + 1)
        shift = F.linear(self.condition, self.own[1], self.own[3] + bias)
        return scale.unsqueeze(1), shift.unsqueeze(1)

    def gradients(self, y: Tensor, leaves: list[Any]) -> tuple[Tensor, ...]:
        return (y, *torch.autograd.grad(y, [*self.inputs, *leaves], self.g))

    def results(self, made: Any) -> dict[str, Tensor]:
        own = ["table"] if self.is_table else ["head weight", "head bias"]
        names = ["y", "x", "c"][: 1 + len(self.inputs)]
        return dict(zip([*names, "weight", "bias", *own], made, strict=True))

    def joined(self, made: Any) -> dict[str, Tensor]:
        first = 3 + len(self.inputs)
        own = made[first:]
        whole = [torch.cat(own, 1)] if self.is_table else [torch.cat(own[:2]), torch.cat(own[2:])]
        return self.results([*made[:first], *whole])


def contestants(key: str, setting: Setting) -> list[Contestant]:
    p = Problem(key, setting)
    weight, bias = p.layer.weight, p.layer.bias
    leaves = [weight, bias, *p.own]
    run = vmap(lambda params, x: functional_call(p.layer, params, (x,)))

    def ours() -> Any:
        return p.gradients(p.hnet(p.x, condition=p.condition), [*p.base, *p.leaves])

    def shared() -> Any:
        y = F.linear(p.x, weight, bias)
        return torch.autograd.grad(y, [p.x, weight, bias], p.g)

    def by_hand() -> Any:
        scale, shift = p.scale_and_shift()
        return p.gradients(F.linear(p.x, weight) * scale + shift, leaves)

    def formed() -> dict[str, Tensor]:
        scale, shift = p.scale_and_shift()
        return {"weight": weight * scale.mT, "bias": shift.squeeze(1)}

    def formed_bmm() -> Any:
        own = formed()
        return p.gradients(torch.baddbmm(own["bias"].unsqueeze(1), p.x, own["weight"].mT), leaves)

    def formed_vmap() -> Any:
        return p.gradients(run(formed(), p.x), leaves)

    return [
        Contestant("hyperloom", ours, p.results, "ours"),
        Contestant(SHARED, shared, None, "reference"),
        Contestant("hand FiLM", by_hand, p.joined, "reference"),
        Contestant("formed, bmm", formed_bmm, p.joined),
        Contestant("formed, vmap", formed_vmap, p.joined),
    ]


def workloads(setting: Setting) -> list[Workload]:
    return [
        Workload(key, lambda k=key: contestants(k, setting), seconds=6, memory=True) for key in KEYS
    ]


def judge(results: Results) -> list[Claim]:
    return [within(results[key], 1.25, f"FiLM, {key}", SHARED) for key in KEYS]


CASE = Case(
    "film",
    "Scale and shift (FiLM)",
    [
        "`Linear(256, 256)` whose rows are scaled and whose bias is shifted for each condition, "
        "1024 rows in all; scale and shift stand in a table with a row for each id, or are linear "
        "in a condition of width 16. All of it is learned. shared linear: the layer alone, the "
        "same for all rows. hand FiLM: `linear(x) * scale + shift` by hand.",
        "Where the bound does not hold: hyperloom does the operations of hand FiLM, by profile "
        "the same products and passes. Beside the shared layer those are two passes over the "
        "output forward, two passes and two sums backward, and the generator's own products, or "
        "the look-up in the table and its gradient. What hyperloom adds is Python, and one "
        "gradient put together from two.",
    ],
    workloads,
    judge,
)
