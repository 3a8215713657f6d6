"""`hyperloom demo names`: a HyperLSTM and a plain LSTM spell, and the weights of one are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import hyperloom.torch as hl
from hyperloom.recipes._frame.measure import Side, lines_of, ms_of
from hyperloom.recipes._frame.run import Run
from hyperloom.recipes.names import by_hand
from hyperloom.recipes.names import torch as ours
from hyperloom.recipes.names.data import Names, read_names

STEPS, BATCH, RATE = 250, 64, 1e-2

_INTRODUCTION = (
    "[bold]Names[/bold], spelled by an LSTM whose weights another, smaller LSTM changes at every "
    "letter (HyperLSTM); beside it a plain LSTM of equal size, and the same by hand."
)


def demo(run: Run) -> None:
    """Run the recipe."""
    run.introduce(_INTRODUCTION)
    names = read_names(run.data)
    torch.manual_seed(run.seed)
    num = len(names.letters)
    speller, plain = ours.Speller(num), by_hand.PlainSpeller(num)
    run.settings(
        data=str(run.data.name) if run.data else "matplotlib's names of the xkcd colour survey",
        train=len(names.train),
        test=len(names.test),
        batch=BATCH,
        rate=RATE,
    )
    found = {
        "HyperLSTM": train(run, "HyperLSTM", speller, names),
        "plain LSTM": train(run, "plain LSTM", plain, names),
    }
    sizes = {"HyperLSTM": speller, "plain LSTM": plain}
    rows = {
        name: {"bits a letter, test": value, "numbers": sum(p.numel() for p in m.parameters())}
        for (name, value), m in zip(found.items(), sizes.values(), strict=True)
    }
    run.table("Names not seen in training", rows)
    one, other = found["HyperLSTM"], found["plain LSTM"]
    text = "bits a letter at or below those of a plain LSTM of equal size, trained alike"
    run.claim(text, one <= other, f"{one:.3f} against {other:.3f}")
    compare(run, speller, names, one)
    draws = torch.Generator().manual_seed(run.seed)
    new = [names.spell(row.numpy()) for row in ours.invent(speller, 12, len(names.train[0]), draws)]
    run.numbers["invented"] = new
    run.console.print("- invented: " + ", ".join(new), highlight=False, markup=False)
    pictures(run, speller, names)
    run.checkpoint(hl, speller.cell)


def train(run: Run, title: str, model: torch.nn.Module, names: Names) -> float:
    """Train a model; return its bits a letter on names that it has not seen."""
    rows, test = torch.from_numpy(names.train), torch.from_numpy(names.test)
    draws = torch.Generator().manual_seed(run.seed)
    step = ours.step_of(model, RATE)
    for _ in run.train(title, STEPS):
        loss = step(rows[torch.randint(len(rows), (BATCH,), generator=draws)])
        run.now(f"{float(loss):.2f} bits")
    with torch.no_grad():
        return float(ours.bits(model(test[:, :-1]), test))


def compare(run: Run, speller: ours.Speller, names: Names, final: float) -> None:
    """Hold the trained speller beside the same by hand: outputs, lines, time of a step."""
    hand = by_hand.copied(speller, len(names.letters))
    batch = torch.from_numpy(names.train[:BATCH])
    with torch.no_grad():
        difference = float((speller(batch[:, :-1]) - hand(batch[:, :-1])).abs().max())
    again: Any = ours.Speller(len(names.letters))
    steps = {"hyperloom": ours.step_of(again, RATE), "by hand": ours.step_of(hand, RATE)}
    ms = ms_of({name: lambda s=step: s(batch) for name, step in steps.items()}, run.steps or 10)
    one = Side(lines_of(ours.Cell, ours.Speller.__init__, ours.Speller.forward), ms["hyperloom"])
    two = Side(lines_of(by_hand.HandSpeller), ms["by hand"])
    run.beside(difference, {"hyperloom": one, "by hand": two}, {"bits a letter": final})
    ratio = ms["hyperloom"] / ms["by hand"]
    text = "a step takes at most 1.1 × as long as by hand"
    run.claim(text, ratio <= 1.1, f"{ratio:.2f} ×, {ms['hyperloom']:.0f} ms")


def pictures(run: Run, speller: ours.Speller, names: Names) -> None:
    """Draw what the generator does to the cell while a name is spelled."""
    row = max(names.test, key=lambda r: len(names.spell(r)))
    text = names.spell(row)
    weights = speller.weights(torch.from_numpy(row[: len(text) + 1]))
    base = weights.mean(0)
    # A row is scaled as a whole: its length beside the mean over the name tells the scale.
    scales = np.linalg.norm(weights, axis=2) / np.linalg.norm(base, axis=1)
    top = float(np.abs(scales - 1).max()) or 1.0
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    panels = figure.subplots(4, 1, sharex=True)
    gates = ("input", "forget", "new value", "output")
    shown: Any = None
    for axes, gate, part in zip(panels, gates, np.split(scales.T, 4), strict=True):
        part = part[np.argsort(part.argmax(1), kind="stable")]
        limits = {"vmin": 1 - top, "vmax": 1 + top}
        shown = axes.imshow(part, "RdBu_r", aspect="auto", interpolation="nearest", **limits)
        axes.set(yticks=(), ylabel=f"{gate}\ngate" if gate != "new value" else gate)
    panels[-1].set_xticks(range(len(text) + 1), ["(start)", *text.replace(" ", "␣")])
    figure.colorbar(shown, ax=panels, label="row of the matrix, × its mean")
    figure.suptitle(
        f"“{text}”: how strong each of the 256 rows of the recurrent matrix is, by letter"
    )
    run.figure("weights.png", figure, "the weights at each letter of a name")
    limit = float(np.quantile(np.abs(weights - base), 0.995)) or 1.0
    frames = [picture(w - base, text[:i], limit) for i, w in enumerate(weights)]
    run.gif("spelling.gif", frames, "the recurrent matrix while a name is spelled", ms=450)


def picture(change: np.ndarray, text: str, limit: float) -> Figure:
    """Return the change of the recurrent matrix `(256, 64)`: the rows that make new values."""
    figure = Figure(figsize=(3.2, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(change[128:192], "RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set(xticks=(), yticks=())
    axes.set_title(text or " ", family="monospace", loc="left")
    return figure
