"""One condition: what the library costs beside a hand-written call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

import hyperloom.torch as hl
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, within
from benchmarks._mlp import mlp

KEY = "MLP 32-64-64-8, 32 rows"
SIZES, EMBEDDING, TASKS, ROWS = (32, 64, 64, 8), 8, 5, 32


def contestants(setting: Setting) -> list[Contestant]:
    torch.manual_seed(0)
    device = setting.device
    sizes = (4, 5, 3) if setting.tiny else SIZES
    target = mlp(sizes).to(device)
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(TASKS, EMBEDDING))
    head: Any = hnet.heads["full"]
    table: Any = hnet.get_parameter("condition.table.0")
    x, g = (torch.randn(ROWS, size, device=device) for size in (sizes[0], sizes[-1]))
    names = [name for name, _ in target.named_parameters()]
    shapes = [p.shape for p in target.parameters()]
    numels = [shape.numel() for shape in shapes]
    weights = [p.detach().clone().requires_grad_() for p in head.weight.split(numels)]
    biases = [p.detach().clone().requires_grad_() for p in head.bias.split(numels)]
    mnet, theirs = _of_hypnettorch(sizes, head, table)
    leaves = [theirs.layer_weight_tensors[0], theirs.layer_bias_vectors[0]]
    leaves += [theirs.internal_params[3]]

    def gradients(y: Tensor, leaves: list[Any]) -> tuple[Tensor, ...]:
        return (y, *torch.autograd.grad(y, leaves, g))

    def ours() -> Any:
        return gradients(hnet(x, condition=3), [head.weight, head.bias, table])

    def heads() -> Any:
        made = [F.linear(table[3], w, b) for w, b in zip(weights, biases, strict=True)]
        params = {n: w.view(s) for n, w, s in zip(names, made, shapes, strict=True)}
        return gradients(functional_call(target, params, (x,)), [*weights, *biases, table])

    def one_head() -> Any:
        made = F.linear(table[3], head.weight, head.bias).split(numels)
        params = {n: w.view(s) for n, w, s in zip(names, made, shapes, strict=True)}
        return gradients(functional_call(target, params, (x,)), [head.weight, head.bias, table])

    def published() -> Any:
        return gradients(mnet.forward(x, weights=theirs.forward(cond_id=3)), leaves)

    def named(made: Any) -> dict[str, Tensor]:
        made = [*made[:3], made[3] if made[3].ndim == 1 else made[3][3]]
        return dict(zip(["y", "weight", "bias", "row"], made, strict=True))

    def joined(made: Any) -> dict[str, Tensor]:
        num = len(weights)
        whole = [torch.cat(made[1 : 1 + num]), torch.cat(made[1 + num : 1 + 2 * num])]
        return named([made[0], *whole, made[-1]])

    return [
        Contestant("hyperloom", ours, named, "ours"),
        Contestant("functional_call, a head for each tensor", heads, joined),
        Contestant("functional_call, one head", one_head, named),
        Contestant("hypnettorch", published, named, "reference"),
    ]


def _of_hypnettorch(sizes: Sequence[int], head: Any, table: Any) -> tuple[Any, Any]:
    """Return the published target and hypernetwork, with the numbers of ours."""
    from hypnettorch.hnets import HMLP
    from hypnettorch.mnets import MLP

    mnet: Any = MLP(sizes[0], sizes[-1], sizes[1:-1], no_weights=True, verbose=False)
    theirs: Any = HMLP(
        mnet.param_shapes, cond_in_size=EMBEDDING, layers=(), num_cond_embs=TASKS, verbose=False
    ).to(table.device)
    with torch.no_grad():
        theirs.layer_weight_tensors[0].copy_(head.weight)
        theirs.layer_bias_vectors[0].copy_(head.bias)
        for row, value in zip(theirs.internal_params[:TASKS], table, strict=True):
            row.copy_(value)
    return mnet, theirs


def workloads(setting: Setting) -> list[Workload]:
    return [Workload(KEY, lambda: contestants(setting), seconds=6)]


def judge(results: Results) -> list[Claim]:
    return [within(results[KEY], 1.2, "one condition")]


CASE = Case(
    "single",
    "One condition",
    [
        "`hnet(x, condition=3)` for a small MLP whose tensors are linear in an embedding of width "
        "8, against the same by hand: a product for each tensor, or one product cut up, and "
        "`functional_call`. What is measured is overhead.",
    ],
    workloads,
    judge,
)
