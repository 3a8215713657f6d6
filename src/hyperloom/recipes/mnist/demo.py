"""`hyperloom demo mnist`: a convolution's kernel from less than half of its numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import hyperloom.torch as hl
from hyperloom.recipes._frame.measure import Side, lines_of, ms_of
from hyperloom.recipes._frame.run import Run
from hyperloom.recipes.mnist import torch as recipe
from hyperloom.recipes.mnist.by_hand import ByHand
from hyperloom.recipes.mnist.data import Digits, load

STEPS, SEEDS, FRAMES = 1500, 3, 10
# Of Adam: the published one for MNIST; a larger one for small images and few steps.
RATES = {True: 1e-3, False: 5e-3}
_INTRODUCTION = (
    "[bold]A static hypernetwork[/bold] (Ha, Dai and Le 2017): the second kernel of a CNN comes, "
    "an input channel at a time, from an embedding and two small linear layers. With "
    "--data mnist.npz (X and Y) it is the published network."
)


def demo(run: Run) -> None:
    """Run the recipe."""
    run.introduce(_INTRODUCTION)
    learn, test = load(run.data)
    size = learn.images.shape[-1]
    rate = RATES[size >= 28]
    nets: dict[str, Any] = {"plain": recipe.plain, "generated": recipe.hypernetwork}
    found: dict[str, list[float]] = {name: [] for name in nets}
    trained: dict[str, Any] = {}
    moving: dict[str, list[np.ndarray]] = {name: [] for name in nets}
    for name, make in nets.items():
        for seed in range(run.seed, run.seed + SEEDS):
            torch.manual_seed(seed)
            net = make(size)
            frames = moving[name] if seed == run.seed else None
            found[name].append(_train(run, f"{name}, seed {seed}", net, learn, test, rate, frames))
            trained.setdefault(name, net)
    hnet = trained["generated"]
    by_hand, difference = _by_hand(hnet, test, size)
    batch = next(recipe.batches(learn, 0))
    steps = {
        "hyperloom": partial(recipe.step_of(recipe.hypernetwork(size), rate, condition=0), *batch),
        "by hand": partial(recipe.step_of(by_hand, rate), *batch),
        "plain": partial(recipe.step_of(recipe.plain(size), rate), *batch),
    }
    ms = ms_of(steps)
    _report(run, found, hnet, size, rate)
    lines = {
        "hyperloom": (recipe.OwnLinear, recipe.hypernetwork),
        "by hand": (ByHand,),
        "plain": (recipe.plain,),
    }
    sides = {name: Side(lines_of(*lines[name]), value) for name, value in ms.items()}
    run.beside(difference, sides, {"% right, generated": 100 * float(np.mean(found["generated"]))})
    _pictures(run, trained, moving)
    run.checkpoint(hl, hnet)


def _given(net: Any) -> dict[str, Any]:
    return {"condition": 0} if isinstance(net, hl.HyperNetwork) else {}


def _train(
    run: Run,
    title: str,
    net: Any,
    learn: Digits,
    test: Digits,
    rate: float,
    frames: list[np.ndarray] | None,
) -> float:
    """Train, and note the second kernel on the way; return the test accuracy."""
    step, stream = recipe.step_of(net, rate, **_given(net)), recipe.batches(learn, run.seed)
    every = max(1, (run.steps or STEPS) // FRAMES)
    for i in run.train(title, STEPS):
        if frames is not None and i % every == 0:
            frames.append(recipe.kernels(net).copy())
        loss = step(*next(stream))
        if i % 50 == 0:
            run.now(f"loss {loss:.3f}")
    return recipe.accuracy(net, test, **_given(net))


def _by_hand(hnet: hl.HyperNetwork, test: Digits, size: int) -> tuple[ByHand, float]:
    """Return the code by hand with the hypernetwork's numbers, and the largest difference."""
    network = hnet.instantiate(0)
    assert isinstance(network, torch.nn.Sequential)
    net = ByHand(network, recipe.WIDTH)
    values = dict(hnet.named_parameters())
    with torch.no_grad():
        net.z.copy_(values["condition.table.0"][0])
        # The slots' signs, which `Chunked` has, are in the first linear layers by hand.
        signs: Any = hnet.heads["chunked"].signs
        own = values["heads.chunked.slots"].view_as(net.own)
        net.own.copy_(own * signs.unsqueeze(-1))
        net.out.weight.copy_(values["heads.chunked.weight"])
        net.out.bias.copy_(values["heads.chunked.bias"])
        images = torch.from_numpy(test.images[:100])
        return net, float((hnet(images, condition=0) - net(images)).abs().max())


def _report(
    run: Run, found: dict[str, list[float]], hnet: hl.HyperNetwork, size: int, rate: float
) -> None:
    """Print accuracies, and say whether what was to be shown is so."""
    learned, all_ = recipe.learned(hnet), hnet.plan.spec[recipe.GENERATED].numel
    run.settings(steps=STEPS, seeds=SEEDS, rate=rate, image=size, batch=recipe.BATCH)
    run.table(
        f"Right answers in percent, on test images, {SEEDS} seeds",
        {
            name: {
                "mean": 100 * float(np.mean(values)),
                "worst seed": 100 * min(values),
                "numbers learned for the second kernel": learned if name == "generated" else all_,
            }
            for name, values in found.items()
        },
    )
    lost = 100 * float(np.mean(found["plain"]) - np.mean(found["generated"]))
    run.claim(
        "half a point is lost at most against the plain CNN (published: 0.04)",
        lost <= 0.5,
        f"{lost:.2f} points",
    )
    published = recipe.learned(recipe.hypernetwork())
    run.claim(
        "the published network's second kernel has 4,244 learned numbers for its 12,544",
        published == 4244,
        f"{published:,}; here {learned:,} for {all_:,}",
    )


def _pictures(run: Run, trained: dict[str, Any], moving: dict[str, list[np.ndarray]]) -> None:
    """Draw the second kernels side by side, at the end and over training."""

    def draw(kernels: dict[str, np.ndarray], width: float) -> Figure:
        figure = Figure((width, width / 2 + 0.2), layout="constrained")
        for axes, (name, kernel) in zip(figure.subplots(1, 2), kernels.items(), strict=True):
            padded = np.pad(kernel, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
            image = padded.transpose(0, 2, 1, 3).reshape(len(kernel) * padded.shape[2], -1)
            limit = 3 * kernel.std()
            axes.imshow(image, cmap="RdBu", vmin=-limit, vmax=limit)
            axes.set_title(f"second kernel, {name}", fontsize=9)
            axes.set_axis_off()
        return figure

    last = {name: recipe.kernels(net) for name, net in trained.items()}
    run.figure("kernels.png", draw(last, 9), "16 x 16 pieces of the second kernel")
    both = zip(*moving.values(), strict=True)
    frames = [draw(dict(zip(moving, pair, strict=True)), 4) for pair in both]
    run.gif("training.gif", frames, "the second kernel while it is trained", ms=150)
