"""Initialisation in depth: E[x²] of activations through 8 generated ReLU layers of width 128."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from reproductions._result import Track, claim, result, silent, table

TITLE = "Initialisation: E[x²] through 8 ReLU layers"
SOURCE = (
    "Chang, Flokas and Lipson, Principled weight initialization for hypernetworks, ICLR 2020; "
    "bound of this project"
)
DEPTH, WIDTH, NUM_CONDITIONS, NUM_INPUTS = 8, 128, 8, 256
LAYOUTS: dict[str, Any] = {
    "Full()": hl.Full(),
    "Chunked(8000)": hl.Chunked(8000),
    "Chunked(2000)": hl.Chunked(2000),
    "Chunked(1000)": hl.Chunked(1000),
    "Chunked(200)": hl.Chunked(200),
    "Grouped(Tensors())": hl.Grouped(),
    "Grouped(Layers())": hl.Grouped(unit=hl.Layers()),
}
# Shown beside them, without a claim: a chunk that is exactly one row of every weight, so that
# whatever chunks have in common adds up in the sum over that row.
ALIGNED: dict[str, Any] = {"Chunked(128), a row each": hl.Chunked(128)}
TRUNKS: dict[str, Any] = {"None": None, "MLP(100, 100)": hl.MLP(100, 100)}
INITS: dict[str, Any] = {"HyperfanIn()": hl.HyperfanIn(relu=True), "Native()": hl.Native()}
# Kaiming's variance for the head itself, which is what a head gets that knows nothing of its
# target: every generated number has variance 2.
UNAWARE: dict[str, Any] = {"Unscaled(√2)": hl.Unscaled(2**0.5)}


def make_target() -> nn.Sequential:
    """Kaiming weights and zero biases, under which E[x²] stays 1 by itself."""
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        linear = nn.Linear(WIDTH, WIDTH)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)


def mean_squares(seed: int, trunk: Any, layout: Any, init: Any) -> Tensor:
    """Return E[x²] after each layer `(conditions, DEPTH)`, for normal inputs."""
    torch.manual_seed(seed)
    hnet = hl.HyperNetwork(
        make_target(),
        condition=hl.Embedding(NUM_CONDITIONS, 32),
        trunk=trunk,
        layout=layout,
        init=init,
    )
    with torch.no_grad():
        params = hnet.generate(range(NUM_CONDITIONS))
        x = torch.randn(NUM_INPUTS, WIDTH)
        found = []
        for layer in range(DEPTH):
            weight, bias = params[f"{2 * layer}.weight"], params[f"{2 * layer}.bias"]
            x = torch.relu(x @ weight.mT + bias.unsqueeze(-2))
            found.append(x.double().square().mean((-1, -2)))
    return torch.stack(found, dim=-1)


def run(
    data: Path | None, track: Track = silent, seeds: Sequence[int] = range(12)
) -> dict[str, Any]:
    """Measure every layout with every trunk and init."""
    cases = [
        (init, layout, trunk) for init in INITS for layout in LAYOUTS | ALIGNED for trunk in TRUNKS
    ]
    cases += [(init, "Full()", trunk) for init in UNAWARE for trunk in TRUNKS]
    step = track(TITLE, len(cases) * len(seeds))
    found: dict[tuple[str, str, str], Tensor] = {}
    for case in cases:
        init, layout, trunk = case
        choices = TRUNKS[trunk], (LAYOUTS | ALIGNED)[layout], (INITS | UNAWARE)[init]
        made = []
        for seed in seeds:
            made.append(mean_squares(seed, *choices))
            step()
        found[case] = torch.cat(made)
    rows = [
        [*case, *(f"{v:.3g}" for v in values.mean(0)), f"{values.min():.3g} – {values.max():.3g}"]
        for case, values in found.items()
    ]
    layers = [f"layer {i + 1}" for i in range(DEPTH)]
    claims = [
        claim(
            f"{layout}, {init}: mean E[x²] at every layer, both trunks",
            [float(v) for trunk in TRUNKS for v in found[init, layout, trunk].mean(0)],
            least=0.5,
            most=2.0,
        )
        for layout in LAYOUTS
        for init in INITS
    ]
    return result(
        TITLE,
        SOURCE,
        setup(len(seeds)),
        claims,
        [
            table(
                "Mean E[x²] after each layer; the last column is the lowest and highest of any "
                "single generated network at any layer.",
                ["init", "layout", "trunk", *layers, "single networks"],
                rows,
            )
        ],
        {" | ".join(case): values.mean(0).tolist() for case, values in found.items()},
    )


def setup(num_seeds: int) -> list[str]:
    """Return what was run, in words."""
    return [
        f"Target: {DEPTH} times Linear({WIDTH}, {WIDTH}) and ReLU, weights Kaiming-normal, biases "
        "zero; weights and biases are all generated. Inputs: normal, variance 1.",
        f"Condition Embedding({NUM_CONDITIONS}, 32); {num_seeds} hypernetworks with "
        f"{NUM_CONDITIONS} conditions each, {NUM_INPUTS} inputs.",
        "The bound is on the mean over hypernetworks and conditions. A single network of width "
        "128 and depth 8 strays by itself: see Full(), whose weights are independent.",
        "Unscaled(√2) is a head under Kaiming's rule for a head: its numbers have variance 2 "
        "whatever they are for.",
    ]
