"""`hyperloom demo multitask`: a classifier from a sentence, for sets that nobody trained on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import hyperloom.torch as hl
from hyperloom.recipes._frame.measure import Side, lines_of, ms_of
from hyperloom.recipes._frame.run import Run
from hyperloom.recipes.multitask import torch as recipe
from hyperloom.recipes.multitask.by_hand import ByHand
from hyperloom.recipes.multitask.data import Tasks, load

STEPS = 800
_INTRODUCTION = (
    "[bold]A classifier from a sentence[/bold]: 'two or five or nine' makes a network that says "
    "whether an image shows one of these digits. 90 of the 120 sets of three digits are learned; "
    "the other 30 are asked for afterwards, with no example of the task."
)
Accuracies = dict[str, dict[str, np.ndarray]]


def demo(run: Run) -> None:
    """Train the generator, the same by hand, and a network that is told the task; compare."""
    run.introduce(_INTRODUCTION)
    tasks = load(run.seed)
    words = tasks.vectors.shape[1]
    hnet = recipe.hypernetwork(words, run.seed)
    size = sum(p.numel() for p in hnet.parameters())
    by_hand, told = (
        ByHand(words, 64, recipe.WIDTH, recipe.TRUNK),
        recipe.Told(words, size, run.seed),
    )
    difference = _same_function(hnet, by_hand, tasks)
    contestants: dict[str, tuple[Any, Any]] = {
        "hypernetwork": (recipe.of(hnet), hl.param_groups(hnet, recipe.HYPER_RATE)),
        "by hand": (by_hand, by_hand.parameters()),
        "told the task": (told, told.parameters()),
    }
    found: Accuracies = {}
    steps: dict[str, Callable[[], object]] = {}
    for name, (logits, parameters) in contestants.items():
        step = recipe.step_of(logits, parameters)
        stream = iter(recipe.batches(tasks, run.seed))
        for i in run.train(name, STEPS):
            loss = step(*next(stream))
            if i % 50 == 0:
                run.now(f"loss {loss:.3f}")
        found[name] = {
            "seen": recipe.accuracy(logits, tasks, tasks.seen),
            "unseen": recipe.accuracy(logits, tasks, tasks.unseen),
        }
        steps[name] = partial(step, *next(stream))
    ms = ms_of(steps)
    _report(run, tasks, found, ms, size, told)
    sides = {
        "hyperloom": Side(lines_of(recipe.hypernetwork, recipe.of), ms["hypernetwork"]),
        "by hand": Side(lines_of(ByHand), ms["by hand"]),
    }
    final = 100 * float(found["hypernetwork"]["unseen"].mean())
    run.beside(difference, sides, {"% right on unseen tasks": final})
    _pictures(run, tasks, hnet, found)
    run.checkpoint(hl, hnet)


def _same_function(hnet: hl.HyperNetwork, by_hand: ByHand, tasks: Tasks) -> float:
    """Give the code by hand the hypernetwork's numbers; return the largest difference of outputs.

    Both train from these, so that the start is the same too.
    """
    values = dict(hnet.named_parameters())
    with torch.no_grad():
        by_hand.trunk.weight.copy_(values["trunks.0.0.weight"])
        by_hand.trunk.bias.copy_(values["trunks.0.0.bias"])
        by_hand.head.weight.copy_(values["heads.full.weight"])
        by_hand.head.bias.copy_(values["heads.full.bias"])
        vectors, images, _ = next(iter(recipe.batches(tasks, 0)))
        return float((recipe.of(hnet)(vectors, images) - by_hand(vectors, images)).abs().max())


def _report(
    run: Run,
    tasks: Tasks,
    found: Accuracies,
    ms: dict[str, float],
    size: int,
    told: torch.nn.Module,
) -> None:
    """Print accuracies, and say whether what was to be shown is so."""
    run.settings(
        trunk=recipe.TRUNK, hidden=recipe.WIDTH, tasks=recipe.TASKS, images=recipe.IMAGES,
        rate=recipe.RATE, hyper_rate=recipe.HYPER_RATE, learned=size,
        learned_told=sum(p.numel() for p in told.parameters()),
    )  # fmt: skip
    run.table(
        "Right answers in percent, on test images",
        {
            name: {part: 100 * float(f[part].mean()) for part in f}
            | {"worst unseen": 100 * float(f["unseen"].min()), "ms a step": ms[name]}
            for name, f in found.items()
        },
    )
    mine, others = found["hypernetwork"]["unseen"], found["told the task"]["unseen"]
    run.claim(
        "sets that were never trained on are told apart, 90 % and more",
        bool(mine.mean() >= 0.9),
        f"{100 * mine.mean():.1f} % over {len(mine)} sets, the worst {100 * mine.min():.1f}",
    )
    run.claim(
        "at least as good there as one network of equal size that reads the sentence as an input",
        bool(mine.mean() >= others.mean()),
        f"{100 * mine.mean():.1f} against {100 * others.mean():.1f} %",
    )


def _pictures(run: Run, tasks: Tasks, hnet: hl.HyperNetwork, found: Accuracies) -> None:
    """Draw what the networks of unseen sentences say of each digit."""
    some = tasks.unseen[:12]
    with torch.no_grad():
        images = torch.from_numpy(tasks.images[1]).expand(len(some), -1, -1)
        said = recipe.of(hnet)(torch.from_numpy(tasks.vectors[some]), images).sigmoid().numpy()
    digits = tasks.digits[1]
    shares = np.stack([[row[digits == d].mean() for d in range(10)] for row in said])
    figure = Figure((9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    left.imshow(shares, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    left.set_xticks(range(10), [str(d) for d in range(10)])
    left.set_yticks(range(len(some)), [tasks.texts[i] for i in some], fontsize=8)
    for row, i in enumerate(some):
        for d in np.flatnonzero(tasks.sets[i]):
            left.add_patch(_box(int(d), row))
    left.set_title("unseen sentences: how often each digit is said to belong", fontsize=9)
    left.set_xlabel("digit shown (white: it does belong)")
    for name, f in found.items():
        right.plot(np.sort(100 * f["unseen"]), label=name)
    right.set_title("each unseen task, worst first", fontsize=9)
    right.set_ylabel("% right")
    right.legend(fontsize=8)
    run.figure("unseen.png", figure, f"what {len(some)} networks say that nobody trained")


def _box(x: float, y: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor="white", linewidth=1.5)
