"""Low-rank changes of its own for each condition, on a shared layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

import hyperloom.torch as hl
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, faster

KEYS = {"table": "factors looked up by id", "generated": "factors generated, width 16"}
CONDITIONS, SIZE, RANK, WIDTH = 1024, 256, 8, 16


class Problem:
    """Where the factors come from, and the numbers that all contestants share."""

    def __init__(self, source: str, setting: Setting) -> None:
        torch.manual_seed(0)
        device = setting.device
        self.num, self.size = (5, 12) if setting.tiny else (CONDITIONS, SIZE)
        self.layer = nn.Linear(self.size, self.size).to(device)
        table = source == "table"
        self.hnet = hl.HyperNetwork(
            self.layer,
            condition=hl.Embedding(self.num, 1) if table else hl.Vector(WIDTH),
            layout={"weight": hl.PerCondition() if table else hl.Full()},
            form={"weight": hl.LoRA(RANK)},
        )
        # One factor starts at zero: equal results would say nothing about the other.
        head: Any = self.hnet.heads["per_condition" if table else "full"]
        with torch.no_grad():
            for p in head.parameters():
                p.normal_(std=0.1)
        self.x = torch.randn(self.num, self.size, device=device, requires_grad=True)
        self.g = torch.randn(self.num, self.size, device=device)
        self.split = self.size * RANK
        if table:
            self.condition: Tensor = torch.arange(self.num, device=device)
            self.inputs, self.leaves = [self.x], [head.table[0]]
            self.own = [p.detach().clone() for p in head.table[0].split(self.split, 1)]
        else:
            self.condition = torch.randn(self.num, WIDTH, device=device, requires_grad=True)
            self.inputs, self.leaves = [self.x, self.condition], [head.weight, head.bias]
            weights, biases = head.weight.split(self.split), head.bias.split(self.split)
            self.own = [p.detach().clone() for p in (*weights, *biases)]
        self.own = [p.requires_grad_() for p in self.own]
        self.is_table = table

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return U `(B, O, rank)` and V `(B, rank, I)`, by hand."""
        if self.is_table:
            flat = [F.embedding(self.condition, p) for p in self.own]
        else:
            pairs = zip(self.own[:2], self.own[2:], strict=True)
            flat = [F.linear(self.condition, w, b) for w, b in pairs]
        return flat[0].view(self.num, -1, RANK), flat[1].view(self.num, RANK, -1)

    def gradients(self, y: Tensor, leaves: list[Any]) -> tuple[Tensor, ...]:
        return (y, *torch.autograd.grad(y, [*self.inputs, *leaves], self.g))

    def results(self, made: Any) -> dict[str, Tensor]:
        names = ["y", "x", "table"] if self.is_table else ["y", "x", "c", "weight", "bias"]
        return dict(zip(names, made, strict=True))

    def joined(self, made: Any) -> dict[str, Tensor]:
        first = 1 + len(self.inputs)
        own = made[first:]
        whole = [torch.cat(own, 1)] if self.is_table else [torch.cat(own[:2]), torch.cat(own[2:])]
        return self.results([*made[:first], *whole])


def contestants(problem: Problem) -> list[Contestant]:
    p, base, bias = problem, problem.layer.weight.detach(), problem.layer.bias.detach()
    run = vmap(lambda w, x: functional_call(p.layer, {"weight": w, "bias": bias}, (x,)))

    def ours() -> Any:
        return p.gradients(p.hnet(p.x, condition=p.condition), p.leaves)

    def formed_bmm() -> Any:
        u, v = p.factors()
        weight = torch.baddbmm(base.expand(p.num, -1, -1), u, v)
        return p.gradients(torch.bmm(weight, p.x.unsqueeze(-1)).squeeze(-1) + bias, p.own)

    def formed_vmap() -> Any:
        u, v = p.factors()
        return p.gradients(run(base + u @ v, p.x), p.own)

    def factored() -> Any:
        u, v = p.factors()
        low = torch.bmm(u, torch.bmm(v, p.x.unsqueeze(-1))).squeeze(-1)
        return p.gradients(F.linear(p.x, base, bias) + low, p.own)

    return [
        Contestant("hyperloom", ours, p.results, "ours"),
        Contestant("formed, bmm", formed_bmm, p.joined),
        Contestant("formed, vmap", formed_vmap, p.joined),
        Contestant("hand factored", factored, p.joined, "reference"),
    ]


def workloads(setting: Setting) -> list[Workload]:
    return [
        Workload(key, lambda s=source: contestants(Problem(s, setting)), seconds=8, memory=True)
        for source, key in KEYS.items()
    ]


def judge(results: Results) -> list[Claim]:
    made = [faster(results[KEYS["table"]], 15, "LoRA rank 8, looked up")]
    return [*made, faster(results[KEYS["generated"]], 15, "LoRA rank 8, generated")]


CASE = Case(
    "lora",
    "LoRA for each condition",
    [
        "`Linear(256, 256)`, frozen, plus a product of rank 8 for each of 1024 conditions with one "
        "row each. The factors stand in a table with a row for each id (per-condition adapters), "
        "or are linear in a condition of width 16. Gradients of the input and of all that is "
        "learned. formed: `W + U V` for each condition, then `bmm` or `vmap(functional_call)`. "
        "hand factored: `U (V x)` by hand, for reference.",
    ],
    workloads,
    judge,
)
