"""Rows of one batch that belong to few conditions; layers with fewer rows than the input has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

import hyperloom.torch as hl
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, within
from hyperloom.torch._weights.make import weights_of

IDS = 4
FORMS = {"Chunked(4096)": hl.Chunked(4096, embedding=8), "LoRA(8)": hl.LoRA(8)}
OWN_ROWS = ("Flatten, Linear(784, 128), one image each", "CNN, classifier generated")


def mlp(width: int) -> nn.Sequential:
    """Return a network of three equal layers."""
    layers = [nn.Linear(width, width) for _ in range(3)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


class Repeated:
    """Many rows of few ids, in any order."""

    def __init__(self, form: str, setting: Setting) -> None:
        torch.manual_seed(0)
        width, num = (16, 24) if setting.tiny else (512, 2048)
        self.target = mlp(width).to(setting.device)
        choice: Any = FORMS[form]
        self.low_rank = isinstance(choice, hl.LoRA)
        weights = {"*.weight": hl.Full()}
        choices: dict[str, Any] = (
            {"layout": weights, "form": {"*.weight": choice}} if self.low_rank else {}
        )
        if not self.low_rank:
            choices = {"layout": hl.Chunked(64, embedding=8) if setting.tiny else choice}
        self.hnet = hl.HyperNetwork(self.target, condition=hl.Embedding(IDS, 8), **choices)
        self.hnet.to(setting.device)
        with torch.no_grad():
            for parameter in self.hnet.parameters():  # a product starts at zero
                parameter += 0.01 * torch.randn_like(parameter)
        self.ids = torch.randint(IDS, (num,), device=setting.device)
        self.x = torch.randn(num, width, device=setting.device)
        self.g = torch.randn(num, width, device=setting.device)
        self.leaves = list(self.hnet.parameters())

    def gradients(self, y: Tensor) -> tuple[Tensor, ...]:
        return (y, *torch.autograd.grad(y, self.leaves, self.g))

    def named(self, made: Any) -> dict[str, Tensor]:
        names = ["y", *(name for name, _ in self.hnet.named_parameters())]
        return dict(zip(names, made, strict=True))

    def padded(self) -> tuple[Tensor, Tensor]:
        """Return which rows each id has, `(IDS, most)`, and which of these are there."""
        order = self.ids.argsort(stable=True)
        parts = order.split(torch.bincount(self.ids, minlength=IDS).tolist())
        rows = nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
        lengths = torch.tensor([len(part) for part in parts], device=rows.device)
        return rows, torch.arange(rows.shape[1], device=rows.device) < lengths.unsqueeze(1)

    def by_hand(self) -> Tensor:
        """Sort the rows by id, pad them to one length, and multiply block by block."""
        rows, there = self.padded()
        h, every = self.x[rows], torch.arange(IDS, device=self.x.device)
        linear = self.adapted(every) if self.low_rank else self.formed(every)
        h = linear(linear(linear(h, 0).relu(), 2).relu(), 4)
        y = torch.empty_like(self.x)
        return y.index_put((rows[there],), h[there])

    def formed(self, ids: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Return a layer with the weights of each id."""
        made = self.hnet.generate(ids)

        def linear(h: Tensor, i: int) -> Tensor:
            return torch.baddbmm(made[f"{i}.bias"].unsqueeze(1), h, made[f"{i}.weight"].mT)

        return linear

    def adapted(self, ids: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Return a layer with the factors of each id, `(IDS, O, 8)` and `(IDS, 8, I)`."""
        made, _ = weights_of(self.hnet, self.hnet.encode(ids), None)

        def linear(h: Tensor, i: int) -> Tensor:
            layer: Any = self.target[i]
            weight: Any = made[f"{i}.weight"]
            low = weight.factor * (h @ weight.v.mT)
            return F.linear(h, layer.weight, layer.bias) + low @ weight.u.mT

        return linear

    def gathered(self) -> Tensor:
        """Give every row a copy of the weights of its id."""
        made = self.hnet.generate(self.ids)
        run = vmap(lambda params, x: functional_call(self.target, params, (x,)))
        return run(made, self.x)


def repeated(form: str, setting: Setting) -> list[Contestant]:
    p = Repeated(form, setting)
    calls = {
        "hyperloom": lambda: p.hnet(p.x, condition=p.ids),
        "hyperloom, rows=": lambda: p.hnet(p.x, condition=list(range(IDS)), rows=p.ids),
        "sorted and padded by hand": p.by_hand,
    }
    if setting.tiny:  # 4.5 GB of memory otherwise
        calls["a copy for each row"] = p.gathered
    roles: dict[str, Any] = {"hyperloom": "ours", "sorted and padded by hand": "opponent"}
    return [
        Contestant(name, lambda c=call: p.gradients(c()), p.named, roles.get(name, "reference"))
        for name, call in calls.items()
    ]


class Small:
    """A target whose layers have fewer rows than its input seems to have."""

    def __init__(self, key: str, setting: Setting) -> None:
        torch.manual_seed(0)
        size, self.num = (8, 5) if setting.tiny else (28, 1024)
        image: tuple[int, ...] = (1, size, size)
        if key == OWN_ROWS[0]:
            body: nn.Module = nn.Flatten()
            last = nn.Linear(size * size, 128)
        else:
            body = nn.Sequential(
                nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten()
            )
            last = nn.Linear(body(torch.zeros(1, *image)).shape[1], 10)
        self.body, self.last = body.to(setting.device), last.to(setting.device)
        self.hnet = hl.HyperNetwork(
            nn.Sequential(self.body, self.last),
            condition=hl.Vector(8),
            layout={"1.*": hl.Full()},
        ).to(setting.device)
        self.condition = torch.randn(self.num, 8, device=setting.device)
        self.x = torch.randn(self.num, 1, *image, device=setting.device)
        self.leaves = list(self.hnet.heads.parameters())

    def named(self, made: Any) -> dict[str, Tensor]:
        return dict(zip(["y", "weight", "bias"], made, strict=True))

    def gradients(self, y: Tensor) -> tuple[Tensor, ...]:
        return (y, *torch.autograd.grad(y.square().sum(), self.leaves))

    def by_hand(self) -> Tensor:
        """Multiply the coefficients into the outputs of all templates."""
        head: Any = self.hnet.heads["full"]
        outputs, inputs = self.last.weight.shape
        h = self.body(self.x.flatten(0, 1))
        cut = outputs * inputs
        templates = head.weight[:cut].view(outputs, inputs, -1)
        products = (h @ templates.permute(1, 0, 2).flatten(1)).unflatten(1, (outputs, -1))
        y = (products * self.condition.unsqueeze(1)).sum(-1) + F.linear(
            h, head.bias[:cut].view(outputs, inputs)
        )
        return (y + F.linear(self.condition, head.weight[cut:], head.bias[cut:])).unsqueeze(1)

    def formed(self) -> Tensor:
        made = self.hnet.generate(self.condition)
        h = self.body(self.x.flatten(0, 1)).unsqueeze(1)
        return torch.baddbmm(made["1.bias"].unsqueeze(1), h, made["1.weight"].mT)


def small(key: str, setting: Setting) -> list[Contestant]:
    p = Small(key, setting)
    calls = {
        "hyperloom": lambda: p.hnet(p.x, condition=p.condition),
        "templates by hand": p.by_hand,
        "formed, bmm": p.formed,
    }
    roles: dict[str, Any] = {"hyperloom": "ours"}
    return [
        Contestant(name, lambda c=call: p.gradients(c()), p.named, roles.get(name, "opponent"))
        for name, call in calls.items()
    ]


def workloads(setting: Setting) -> list[Workload]:
    rows = [
        Workload(key, lambda k=key: repeated(k, setting), seconds=6, memory=True, tolerance=1e-4)
        for key in FORMS
    ]
    layers = [
        Workload(key, lambda k=key: small(k, setting), seconds=4, memory=True, tolerance=1e-4)
        for key in OWN_ROWS
    ]
    return rows + layers


def judge(results: Results) -> list[Claim]:
    hand = "sorted and padded by hand"
    claims = [within(results[key], 1.15, f"2,048 rows of 4 ids, {key}", hand) for key in FORMS]
    return claims + [within(results[key], 1.15, key, None) for key in OWN_ROWS]


CASE = Case(
    "rows",
    "Rows of few conditions",
    [
        "2,048 rows of 4 ids in any order, through an MLP 512-512-512-512: chunks of 4,096 "
        "weights, or a LoRA of rank 8 on every layer. By hand the rows are sorted by id, padded to "
        "one length and multiplied block by block, with the weights of each id generated once. One "
        "set of weights for every row takes 4.5 GB, and is not run.",
        "Layers that have fewer rows than the input seems to have: 1,024 images of 28×28, "
        "flattened, with a linear layer whose weight is generated; and a small CNN whose "
        "classifier is generated.",
    ],
    workloads,
    judge,
)
