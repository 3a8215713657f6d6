"""One training step on a new task while old tasks are held: against hypnettorch's own step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, faster

TRUNKS = {"trunk 10,10,10,10": ((10, 10, 10, 10), 4.0), "trunk 100,100": ((100, 100), 2.0)}
OLD, BATCH, EMBEDDING, CHUNK, BETA = 10, 32, 32, 8000, 0.1


class Problem:
    """Both libraries with the same numbers in them, and one batch of the new task."""

    def __init__(self, trunk: tuple[int, ...], setting: Setting) -> None:
        from hypnettorch.hnets import ChunkedHMLP
        from hypnettorch.mnets import MLP

        torch.manual_seed(0)
        self.sizes, chunk = ((6, 5, 5, 3), 13) if setting.tiny else ((784, 100, 100, 10), CHUNK)
        first, last, hidden = self.sizes[0], self.sizes[-1], self.sizes[1:-1]
        self.mnet: Any = MLP(first, last, hidden, no_weights=True, verbose=False)
        self.theirs: Any = ChunkedHMLP(
            self.mnet.param_shapes,
            chunk,
            chunk_emb_size=EMBEDDING,
            cond_in_size=EMBEDDING,
            layers=trunk,
            num_cond_embs=OLD + 1,
            verbose=False,
        ).to(setting.device)
        a, b, c = (nn.Linear(i, o) for i, o in zip(self.sizes, self.sizes[1:], strict=False))
        self.target = nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), c).to(setting.device)
        self.ours = self._ours(trunk, chunk, published=True)
        self.default = self._ours(trunk, chunk, published=False)
        with torch.no_grad():
            for p in self.theirs.parameters():
                p.normal_(std=0.3)
        values = {name: value.detach().clone() for name, value in self.mapped().items()}
        self.ours.load_state_dict(values, strict=False)
        self.x = torch.randn(BATCH, first, device=setting.device)
        self.t = torch.randint(0, last, (BATCH,), device=setting.device)

    def _ours(self, trunk: tuple[int, ...], chunk: int, published: bool) -> hl.HyperNetwork:
        return hl.HyperNetwork(
            self.target,
            condition=hl.Embedding(OLD + 1, EMBEDDING),
            trunk=hl.MLP(*trunk, norm=None if published else "rms"),
            layout=hl.Chunked(chunk, embedding=EMBEDDING, signs=not published),
            init=hl.Unscaled() if published else None,
        )

    def mapped(self, gradients: dict[int, Tensor] | None = None) -> dict[str, Tensor]:
        """Return hypnettorch's parameters, or their gradients by `id`, under hyperloom's names."""
        inner = self.theirs._hnet

        def value(p: Tensor) -> Tensor:
            return p if gradients is None else gradients[id(p)]

        weights = [value(p) for p in inner.layer_weight_tensors]
        biases = [value(p) for p in inner.layer_bias_vectors]
        # It puts the chunk embedding first, hyperloom the condition.
        slot, condition = weights[0].split([EMBEDDING, EMBEDDING], dim=1)
        weights[0] = torch.cat([condition, slot], dim=1)
        rows = [value(p) for p in inner.internal_params[: OLD + 1]]
        made = {"condition.table.0": torch.stack(rows)}
        for i, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            made[f"trunks.0.{i}.weight"], made[f"trunks.0.{i}.bias"] = weight, bias
        made["heads.chunked.weight"], made["heads.chunked.bias"] = weights[-1], biases[-1]
        made["heads.chunked.slots"] = value(self.theirs.internal_params[-1])
        return made

    def disturb(self) -> None:
        """Move all numbers a little: a regulariser that is zero would show nothing."""
        with torch.no_grad():
            for p in (*self.theirs.parameters(), *self.default.parameters()):
                p.add_(torch.randn_like(p), alpha=0.01)
        values = {name: value.detach().clone() for name, value in self.mapped().items()}
        self.ours.load_state_dict(values, strict=False)


def contestants(trunk: tuple[int, ...], setting: Setting) -> list[Contestant]:
    from hypnettorch.utils.hnet_regularizer import calc_fix_target_reg, get_current_targets

    p = Problem(trunk, setting)
    targets = get_current_targets(OLD, p.theirs)
    old = torch.stack([torch.cat([w.flatten() for w in each]) for each in targets])
    same, default = _ours(p, "hyperloom", p.ours), _ours(p, "hyperloom, its defaults", p.default)
    p.disturb()

    def published() -> Any:
        loss = F.cross_entropy(p.mnet.forward(p.x, p.theirs.forward(cond_id=OLD)), p.t)
        loss = loss + BETA * calc_fix_target_reg(p.theirs, OLD, targets=targets)
        leaves = list(p.theirs.parameters())
        return loss, dict(zip(leaves, torch.autograd.grad(loss, leaves), strict=True))

    def their_results(made: Any) -> dict[str, Tensor]:
        loss, gradients = made
        return {"loss": loss, **p.mapped({id(leaf): g for leaf, g in gradients.items()})}

    by_hand = _batched_by_hand(p, old)
    return [
        same,
        Contestant("hypnettorch", published, their_results),
        Contestant("batched by hand", *by_hand, "reference"),
        default,
    ]


def _ours(p: Problem, name: str, hnet: hl.HyperNetwork) -> Contestant:
    regularizer = hl.OutputRegularizer(BETA)
    regularizer.remember(hnet, range(OLD))
    leaves = dict(hnet.named_parameters())

    def step() -> Any:
        loss = F.cross_entropy(hnet(p.x, condition=OLD), p.t) + regularizer(hnet)
        return loss, *torch.autograd.grad(loss, list(leaves.values()))

    def results(made: Any) -> dict[str, Tensor]:
        return dict(zip(["loss", *leaves], made, strict=True))

    # Its defaults start elsewhere: another problem of the same size, nothing to compare.
    same = hnet is p.ours
    return Contestant(name, step, results if same else None, "ours" if same else "reference")


def _batched_by_hand(p: Problem, old: Tensor) -> tuple[Any, Any]:
    """Return step and results of what a careful user would write: all tasks in one pass."""
    leaves = {n: v.detach().clone().requires_grad_() for n, v in p.mapped().items()}
    shapes = [w.shape for w in p.target.parameters()]
    numels = [shape.numel() for shape in shapes]
    depth = sum(name.startswith("trunks") for name in leaves) // 2

    def step() -> Any:
        rows, slots = leaves["condition.table.0"], leaves["heads.chunked.slots"]
        left, right = leaves["trunks.0.0.weight"].split(EMBEDDING, dim=1)
        h = F.linear(rows, left, leaves["trunks.0.0.bias"]).unsqueeze(1) + F.linear(slots, right)
        for i in range(1, depth):
            h = F.linear(h.relu(), leaves[f"trunks.0.{i}.weight"], leaves[f"trunks.0.{i}.bias"])
        made = F.linear(h.relu(), leaves["heads.chunked.weight"], leaves["heads.chunked.bias"])
        held, new = made.flatten(1)[:, : sum(numels)].split([OLD, 1])
        parts = [w.view(s) for w, s in zip(new[0].split(numels), shapes, strict=True)]
        x = F.linear(p.x, parts[0], parts[1]).relu()
        y = F.linear(F.linear(x, parts[2], parts[3]).relu(), parts[4], parts[5])
        loss = F.cross_entropy(y, p.t) + BETA / OLD * F.mse_loss(held, old, reduction="sum")
        return loss, *torch.autograd.grad(loss, list(leaves.values()))

    return step, lambda made: dict(zip(["loss", *leaves], made, strict=True))


def workloads(setting: Setting) -> list[Workload]:
    return [
        Workload(key, lambda t=trunk: contestants(t, setting), seconds=8, memory=True)
        for key, (trunk, _) in TRUNKS.items()
    ]


def judge(results: Results) -> list[Claim]:
    return [faster(results[k], least, f"continual step, {k}") for k, (_, least) in TRUNKS.items()]


CASE = Case(
    "continual",
    "Continual-learning step",
    [
        "Loss and gradients of one step on task 11 (batch 32, MLP 784-100-100-10) with the output "
        "regulariser over 10 old tasks; chunks of 8000, embeddings 32 and 32. hypnettorch as its "
        "users call it: `ChunkedHMLP`, `MLP`, `get_current_targets` once and "
        "`calc_fix_target_reg` in each step. hyperloom: `hnet(x, condition=10)` and "
        "`OutputRegularizer`, with the same numbers in it (`Unscaled()`, `signs=False`, "
        "`norm=None`); “its defaults” is the same step with hyperloom's own initialisation, "
        "scales and signs. batched by hand: all eleven tasks in one pass through plain torch.",
    ],
    workloads,
    judge,
)
