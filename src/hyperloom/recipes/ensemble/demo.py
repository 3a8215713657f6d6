"""`hyperloom demo ensemble`: three ensembles of digit classifiers, and what they do not know."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.recipes._frame.measure import Side, lines_of, ms_of
from hyperloom.recipes._frame.run import Run
from hyperloom.recipes.ensemble import by_hand
from hyperloom.recipes.ensemble import torch as ours

STEPS, BATCH, RATE = 400, 32, 3e-3

_INTRODUCTION = (
    "[bold]An ensemble[/bold] of 20 digit classifiers: from one generator, as BatchEnsemble, and "
    "as 20 networks. How sure are they, and do they notice what is not a digit?"
)


class Digits(NamedTuple):
    """scikit-learn's digits, half to train, half to test; images `(n, 64)` in 0..1."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def off(self) -> Tensor:
        """The test images with their pixels shuffled, one way for all: no digits any more."""
        return self.test_x[:, torch.from_numpy(np.random.RandomState(1).permutation(64))]


def read_digits() -> Digits:
    """Return the digits in a split that is always the same."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(images))
    x = torch.from_numpy((images[order] / 16).astype("float32"))
    y, cut = torch.from_numpy(labels[order]).long(), len(order) // 2
    return Digits(x[:cut], y[:cut], x[cut:], y[cut:])


def demo(run: Run) -> None:
    """Run the recipe."""
    run.introduce(_INTRODUCTION)
    digits = read_digits()
    torch.manual_seed(run.seed)
    generated = ours.FromOneGenerator()
    ensembles: dict[str, nn.Module] = {
        "one generator": generated,
        "BatchEnsemble form": ours.Batched(),
        "20 networks": by_hand.SeparateNetworks(),
        "20 networks, 3 × the steps": by_hand.SeparateNetworks(),
    }
    run.settings(members=ours.MEMBERS, batch=BATCH, rate=RATE, train=len(digits.x))
    said = {name: train(run, name, members, digits) for name, members in ensembles.items()}
    longer = "20 networks, 3 × the steps"
    numbers = {n: sum(p.numel() for p in m.parameters()) for n, m in ensembles.items()}
    on, off = said[longer]
    said["1 of the networks"] = on[:1], off[:1]
    numbers["1 of the networks"] = numbers["20 networks"] // ours.MEMBERS
    rows = {n: {**row(on, off, digits), "numbers": numbers[n]} for n, (on, off) in said.items()}
    run.table("Digits not seen in training", rows)
    one, many, most = (rows[n] for n in ("one generator", "20 networks", longer))
    for text, key, sign, other in (
        ("no more nats than 20 networks trained alike", "nats an image", 1, many),
        ("no more nats than 20 networks trained longer", "nats an image", 1, most),
        ("it tells digits from shuffled pixels as well as 20 networks", "off the data", -1, most),
    ):
        held = sign * one[key] <= sign * other[key]
        run.claim(text, held, f"{key}: {one[key]:.4f} against {other[key]:.4f}")
    few = numbers["one generator"] / numbers["20 networks"]
    run.claim("in less than half of the numbers", few < 0.5, f"{few:.2f} ×")
    compare(run, generated, digits, one["nats an image"])
    draw(run, {name: ours.disagreement(s[0]) for name, s in said.items() if len(s[0]) > 1},
         {name: ours.disagreement(s[1]) for name, s in said.items() if len(s[0]) > 1})  # fmt: skip
    run.checkpoint(hl, generated.hnet)


def train(run: Run, title: str, members: nn.Module, digits: Digits) -> tuple[Tensor, Tensor]:
    """Train an ensemble, each member on batches of its own; return what it says on and off data."""
    step, draws = ours.step_of(members, RATE), torch.Generator().manual_seed(run.seed)
    for _ in run.train(title, 3 * STEPS if "3 ×" in title else STEPS):
        batch = torch.randint(len(digits.x), (ours.MEMBERS, BATCH), generator=draws)
        run.now(f"{float(step(digits.x[batch], digits.y[batch])):.3f} nats")
    return ours.chances(members, digits.test_x), ours.chances(members, digits.off)


def row(on: Tensor, off: Tensor, digits: Digits) -> dict[str, float]:
    """Return what is measured of an ensemble; of one member, how unsure it is."""
    measure = ours.disagreement if len(on) > 1 else lambda said: ours.entropy(said.mean(0))
    scores = torch.cat([measure(on), measure(off)])
    which = np.repeat([0, 1], [on.shape[1], off.shape[1]])
    found = ours.measures(on, digits.test_y)
    return {**found, "off the data": float(roc_auc_score(which, scores))}


def compare(run: Run, generated: nn.Module, digits: Digits, final: float) -> None:
    """Hold the generator beside the same by hand: outputs, lines, time of a step."""
    hand = by_hand.copied(generated)
    x, y = (
        t[: ours.MEMBERS * BATCH].reshape(ours.MEMBERS, BATCH, *t.shape[1:]) for t in digits[:2]
    )
    with torch.no_grad():
        difference = float((generated(x) - hand(x)).abs().max())
    pairs = {"hyperloom": ours.FromOneGenerator(), "by hand": hand}
    steps = {name: ours.step_of(members, RATE) for name, members in pairs.items()}
    ms = ms_of({name: lambda s=step: s(x, y) for name, step in steps.items()})
    lines = {
        "hyperloom": lines_of(ours.network, ours.FromOneGenerator),
        "by hand": lines_of(by_hand.HandGenerator) + 1,  # SHAPES
    }
    sides = {name: Side(lines[name], ms[name]) for name in pairs}
    run.beside(difference, sides, {"nats an image": final})


def draw(run: Run, on: dict[str, Tensor], off: dict[str, Tensor]) -> None:
    """Draw how far members disagree on digits and off them."""
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    panels = figure.subplots(1, len(on), sharey=True)
    bins = np.linspace(0, max(float(x.max()) for x in (*on.values(), *off.values())) + 1e-6, 30)
    for axes, name in zip(panels, on, strict=True):
        axes.hist(on[name], bins, color="tab:blue", alpha=0.7, label="digits")
        axes.hist(off[name], bins, color="tab:red", alpha=0.7, label="their pixels shuffled")
        axes.set(title=name, xlabel="disagreement of members, nats", yscale="log")
    panels[0].legend()
    panels[0].set_ylabel("images")
    run.figure("disagreement.png", figure, "how far members disagree, on digits and off them")
