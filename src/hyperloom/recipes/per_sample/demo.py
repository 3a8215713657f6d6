"""`hyperloom demo per_sample`: every image's gradient through generated weights, in one call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import hyperloom.torch as hl
from hyperloom.recipes._frame.measure import Side, lines_of, ms_of
from hyperloom.recipes._frame.run import Run
from hyperloom.recipes.per_sample import torch as recipe
from hyperloom.recipes.per_sample.by_hand import ByHand
from hyperloom.recipes.per_sample.data import DELTA, GROUPS, Images, epsilon, load

STEPS, SEEDS, RATE, PRIVACY = 100, 3, 5e-3, recipe.Privacy(clip=1.0, noise=2.0)
RATES_OF_SEPARATE = (2e-3, 5e-3, 1e-2)  # the best on the test images is shown
_INTRODUCTION = (
    "[bold]The gradient of every image by itself[/bold], through generated weights, in one call. "
    "Private training clips each of them and adds noise: one generator for four groups, beside "
    "a network for each group, at the same privacy."
)


def demo(run: Run) -> None:
    """Run the recipe."""
    run.introduce(_INTRODUCTION)
    learn, test = load()
    hnet, by_hand = recipe.hypernetwork(run.seed), _by_hand(run.seed)
    difference, looped = _compare(hnet, by_hand, learn)
    share = recipe.LOT / len(learn.digits)
    spent = epsilon(share, PRIVACY.noise, run.steps or STEPS)
    run.settings(
        steps=STEPS, seeds=SEEDS, rate=RATE, clip=PRIVACY.clip, noise=PRIVACY.noise, lot=recipe.LOT,
        images=len(learn.digits), delta=DELTA, epsilon=spent,
    )  # fmt: skip
    found: dict[str, np.ndarray] = {}
    trained = hnet
    before = torch.linalg.eigvalsh(recipe.curvature(hnet, learn))
    for name, make, privacy, rates in (
        ("separate", recipe.separate, None, RATES_OF_SEPARATE),
        ("separate, private", recipe.separate, PRIVACY, RATES_OF_SEPARATE),
        ("generator, private", recipe.hypernetwork, PRIVACY, (RATE,)),
        ("generator", recipe.hypernetwork, None, (RATE,)),
    ):
        found[name], trained = _best(run, name, make, privacy, rates, learn, test)
    after = torch.linalg.eigvalsh(recipe.curvature(trained, learn))
    _report(run, found, looped, spent)
    ms = ms_of(_steps(hnet, by_hand, learn))
    sides = {
        "hyperloom": Side(lines_of(recipe.hypernetwork, recipe.of), ms["hyperloom"]),
        "by hand": Side(lines_of(ByHand), ms["by hand"]),
    }
    final = 100 * float(found["generator, private"].mean())
    run.beside(difference, sides, {"% right, private": final})
    _picture(run, trained, learn, found, before, after)
    run.checkpoint(hl, trained)


def _by_hand(seed: int) -> ByHand:
    """Return the code by hand with the hypernetwork's numbers."""
    net = ByHand(GROUPS, recipe.DIM, recipe.TRUNK, 64, recipe.WIDTH, 10)
    names = {
        "condition.table.0": net.table.weight,
        "trunks.0.0.weight": net.trunk.weight,
        "trunks.0.0.bias": net.trunk.bias,
        "heads.full.weight": net.head.weight,
        "heads.full.bias": net.head.bias,
    }
    with torch.no_grad():
        for name, value in recipe.hypernetwork(seed).named_parameters():
            names[name].copy_(value)
    return net


def _lot(images: Images, num: int = 64) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(part[:num]) for part in images)


def _detached(net: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in net.named_parameters()}


def _compare(
    hnet: hl.HyperNetwork, by_hand: ByHand, images: Images
) -> tuple[float, tuple[float, float, float]]:
    """Return the difference to code by hand, and that to a loop with milliseconds of both."""
    lot, parameters = _lot(images), _detached(hnet)
    at_once = partial(recipe.gradients, recipe.of(hnet), parameters, *lot)
    mine = at_once()
    hand = recipe.gradients(by_hand.logits, _detached(by_hand), *lot)
    difference = max(
        float((a - b).abs().max()) for a, b in zip(mine.values(), hand.values(), strict=True)
    )

    def one_by_one() -> list[tuple[Tensor, ...]]:
        made = []
        for group, image, digit in zip(*lot, strict=True):
            logits = hnet(image.unsqueeze(0), condition=group)
            loss = torch.nn.functional.cross_entropy(logits, digit.unsqueeze(0))
            made.append(torch.autograd.grad(loss, list(hnet.parameters())))
        return made

    rows = one_by_one()
    apart = max(
        float((torch.stack(each) - value).abs().max())
        for each, value in zip(zip(*rows, strict=True), mine.values(), strict=True)
    )
    ms = ms_of({"at once": at_once, "one by one": one_by_one}, times=5)
    return difference, (apart, ms["at once"], ms["one by one"])


def _best(
    run: Run,
    name: str,
    make: Callable[[int], hl.HyperNetwork],
    privacy: recipe.Privacy | None,
    rates: tuple[float, ...],
    learn: Images,
    test: Images,
) -> tuple[np.ndarray, hl.HyperNetwork]:
    """Train from each seed with each rate.

    Returns:
        Accuracies of the best rate, `(SEEDS, GROUPS)`, and the network of its last seed.
    """
    results: list[tuple[np.ndarray, hl.HyperNetwork]] = []
    for rate in rates:
        rows, net = [], make(run.seed)
        for seed in run.track(name, range(run.seed, run.seed + SEEDS)):
            net = make(seed)
            step = recipe.step_of(recipe.of(net), net, rate, privacy, seed)
            stream = recipe.lots(learn, seed)
            for _ in range(run.steps or STEPS):
                step(*next(stream))
            rows.append(recipe.accuracy(net, test))
        results.append((np.stack(rows), net))
    return max(results, key=lambda result: float(result[0].mean()))


def _report(
    run: Run,
    found: dict[str, np.ndarray],
    looped: tuple[float, float, float],
    spent: float,
) -> None:
    """Print accuracies, and say whether what was to be shown is so."""
    rows: dict[str, dict[str, Any]] = {
        name: {f"group {g}": 100 * float(share) for g, share in enumerate(shares.mean(0))}
        | {"mean": 100 * float(shares.mean())}
        | {"worst seed": 100 * float(shares.mean(1).min())}
        for name, shares in found.items()
    }
    run.table(f"Right answers in percent on test images, {SEEDS} seeds", rows)
    apart, once, one = looped
    text = f"differences up to {apart:.1e}; 64 images: {once:.1f} against {one:.1f} ms"
    run.claim(
        "gradients of single images in one call: those of a loop, at least 5 × faster",
        apart < 1e-4 and one >= 5 * once,
        text,
    )
    mine, other = found["generator, private"], found["separate, private"]
    run.claim(
        "private, one generator is better than a network for each group, at the same epsilon",
        bool((mine.mean(1) > other.mean(1)).all()),
        f"{100 * mine.mean():.1f} against {100 * other.mean():.1f} % at epsilon {spent:.2f}; "
        f"by {100 * (mine.mean(1) - other.mean(1)).min():.1f} points in the worst seed",
    )
    open_ = found["generator"]
    run.claim(
        "privacy costs the generator 15 points at most",
        bool(open_.mean() - mine.mean() <= 0.15),
        f"{100 * (open_.mean() - mine.mean()):.1f} points",
    )


def _steps(
    hnet: hl.HyperNetwork, by_hand: ByHand, learn: Images
) -> dict[str, Callable[[], object]]:
    lot = next(recipe.lots(learn, 0))
    kinds = {"hyperloom": (recipe.of(hnet), hnet), "by hand": (by_hand.logits, by_hand)}
    return {
        name: partial(recipe.step_of(logits, net, 0.0, PRIVACY, 0), *lot)
        for name, (logits, net) in kinds.items()
    }


def _picture(
    run: Run,
    hnet: hl.HyperNetwork,
    learn: Images,
    found: dict[str, np.ndarray],
    before: Tensor,
    after: Tensor,
) -> None:
    """Draw the norms of single gradients, accuracies, and the curvature in each group's vector."""
    each = recipe.gradients(recipe.of(hnet), _detached(hnet), *_lot(learn, 512))
    norms = torch.stack([g.flatten(1).square().sum(1) for g in each.values()]).sum(0).sqrt()
    figure = Figure((12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.hist(norms.clamp(min=1e-4).log10().numpy(), bins=40)
    left.axvline(0, color="k", ls="--", lw=1)
    left.set(title="single gradients, trained: log10 of norms", ylabel="images")
    for i, (name, shares) in enumerate(found.items()):
        middle.bar(np.arange(GROUPS) + 0.2 * i, 100 * shares.mean(0), 0.19, label=name)
    middle.set(title="% right, a group", ylim=(0, 105))
    middle.set_xticks(np.arange(GROUPS) + 0.3, [f"{90 * g}°" for g in range(GROUPS)])
    middle.legend(fontsize=7, loc="lower left")
    for g in range(GROUPS):
        right.plot(before[g].numpy(), ":", color=f"C{g}")
        right.plot(after[g].numpy(), "o-", ms=3, color=f"C{g}", label=f"{90 * g}°")
    right.set(title="Hessian in each vector (dotted: at the start)")
    right.title.set_fontsize(9)
    left.title.set_fontsize(9)
    right.legend(fontsize=8)
    run.figure("gradients.png", figure, "norms of single gradients, accuracies, curvature")
