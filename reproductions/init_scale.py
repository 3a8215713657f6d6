"""Initialisation layer by layer: activations and gradients against the target's own init."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from reproductions._result import Track, claim, result, silent, table

TITLE = "Initialisation: activations and gradients against the native init"
SOURCE = "Bound of this project: every ratio within 2, layer by layer, for every layout"
NUM_CONDITIONS = 4
LAYOUTS: dict[str, Any] = {
    "Full": hl.Full(),
    "Chunked(4000)": hl.Chunked(4000),
    "Chunked(1000)": hl.Chunked(1000),
    "Grouped(Tensors)": hl.Grouped(),
    "Grouped(Layers)": hl.Grouped(unit=hl.Layers()),
    "Grouped(Tiles)": hl.Grouped(unit=hl.Tiles()),
    "PerCondition": hl.PerCondition(),
}
TRUNKS: dict[str, Any] = {"None": None, "MLP(100, 100)": hl.MLP(100, 100)}
UNAWARE = "Unscaled, Chunked(4000)"
LAYERS = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention)


class Block(nn.Module):
    """A residual block: two 3x3 convolutions with batch norm, and a 1x1 where the shape changes."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_out)
        same = num_in == num_out and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(num_in, num_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.skip(x))


def make_mlp() -> nn.Module:
    layers: dict[str, nn.Module] = {}
    for i, (num_in, num_out) in enumerate(pairwise((64, 128, 128, 128, 128))):
        layers[f"linear{i + 1}"] = nn.Linear(num_in, num_out)
        layers[f"relu{i + 1}"] = nn.ReLU()
    return nn.Sequential(OrderedDict(layers, output=nn.Linear(128, 10)))


def make_resnet() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 16, 3, 1, 1),
            norm=nn.BatchNorm2d(16),
            relu=nn.ReLU(),
            block1=Block(16, 16, 1),
            block2=Block(16, 32, 2),
            block3=Block(32, 64, 2),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            output=nn.Linear(64, 10),
        )
    )


def make_transformer() -> nn.Module:
    block1, block2 = (
        nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True) for _ in range(2)
    )
    return nn.Sequential(
        OrderedDict(
            embedding=nn.Embedding(50, 64), block1=block1, block2=block2, output=nn.Linear(64, 50)
        )
    )


def mlp_data() -> tuple[Tensor, Tensor]:
    return torch.randn(64, 64), torch.randint(10, (64,))


def resnet_data() -> tuple[Tensor, Tensor]:
    return torch.randn(32, 3, 16, 16), torch.randint(10, (32,))


def transformer_data() -> tuple[Tensor, Tensor]:
    return torch.randint(50, (8, 16)), torch.randint(50, (8, 16))


TARGETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]] = {
    "MLP, 5 layers": (make_mlp, mlp_data),
    "ResNet, 7 convolutions, batch norm": (make_resnet, resnet_data),
    "Transformer, embedding, 2 encoder layers": (make_transformer, transformer_data),
}
Moments = dict[tuple[str, str], float]


def measure(net: nn.Module, x: Tensor, y: Tensor) -> Moments:
    """Return, for every layer, the variance of its output and of the gradients that reach it.

    The keys are (layer, kind) with kind "activation", "its gradient" (mean square of the loss's
    gradient by the output) or "weight gradient" (likewise by the weight).
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        output.retain_grad()
        outputs[name] = output

    for name, module in net.named_modules():
        # Attention calls its output projection's tensors, not the module.
        if isinstance(module, LAYERS) and not name.endswith("out_proj"):
            module.register_forward_hook(partial(keep, name))
    net.train()
    F.cross_entropy(net(x).flatten(0, -2), y.flatten()).backward()
    found: Moments = {}
    for name, output in outputs.items():
        assert output.grad is not None
        found[name, "activation"] = float(output.detach().var())
        found[name, "its gradient"] = float(output.grad.square().mean())
    for name, parameter in net.named_parameters():
        layer, _, key = name.rpartition(".")
        if key.endswith("weight"):
            assert parameter.grad is not None
            found[layer, "weight gradient"] = float(parameter.grad.square().mean())
    return found


def native(target: str, seeds: Sequence[int]) -> list[Moments]:
    """Measure fresh networks of the target's own init."""
    make, data = TARGETS[target]
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        x, y = data()
        found += [measure(make(), x, y) for _ in range(NUM_CONDITIONS)]
    return found


def generated(target: str, trunk: Any, layout: Any, init: Any, seed: int) -> list[Moments]:
    """Measure the networks that a fresh hypernetwork generates."""
    make, data = TARGETS[target]
    torch.manual_seed(seed)
    x, y = data()
    condition = hl.Embedding(NUM_CONDITIONS, 32)
    hnet = hl.HyperNetwork(make(), condition=condition, trunk=trunk, layout=layout, init=init)
    return [measure(hnet.instantiate(i), x, y) for i in range(NUM_CONDITIONS)]


def ratios(ours: list[Moments], theirs: list[Moments]) -> Moments:
    """Return the ratio of standard deviations, each pooled over networks."""
    return {
        key: math.sqrt(sum(m[key] for m in ours) / len(ours))
        / math.sqrt(sum(m[key] for m in theirs) / len(theirs))
        for key in theirs[0]
    }


def run(
    data: Path | None,
    track: Track = silent,
    seeds: Sequence[int] = range(6),
    targets: Sequence[str] = tuple(TARGETS),
) -> dict[str, Any]:
    """Measure every layout with every trunk on every target."""
    cases = {(trunk, layout): hl.Native() for trunk in TRUNKS for layout in LAYOUTS}
    cases |= {(trunk, UNAWARE): hl.Unscaled(0.1) for trunk in TRUNKS}
    step = track(TITLE, len(targets) * len(cases) * len(seeds))
    found: dict[tuple[str, str, str], Moments] = {}
    for target in targets:
        theirs = native(target, seeds)
        for (trunk, layout), init in cases.items():
            chosen = LAYOUTS.get(layout, hl.Chunked(4000))
            ours = []
            for seed in seeds:
                ours += generated(target, TRUNKS[trunk], chosen, init, seed)
                step()
            found[target, trunk, layout] = ratios(ours, theirs)
    claims = [
        claim(
            f"{layout}: every ratio, {target}",
            [v for trunk in TRUNKS for v in found[target, trunk, layout].values()],
            least=0.5,
            most=2.0,
        )
        for target in targets
        for layout in LAYOUTS
    ]
    tables = [one_table(target, trunk, found) for target in targets for trunk in TRUNKS]
    raw = {
        " | ".join(case): {" | ".join(key): round(v, 4) for key, v in values.items()}
        for case, values in found.items()
    }
    return result(TITLE, SOURCE, setup(len(seeds)), claims, tables, raw)


def one_table(
    target: str, trunk: str, found: dict[tuple[str, str, str], Moments]
) -> dict[str, Any]:
    """Return the ratios of one target and trunk, a row a layer."""
    layouts = [*LAYOUTS, UNAWARE]
    names = [name for name, _ in TARGETS[target][0]().named_modules()]
    measured = {layer for layer, _ in found[target, trunk, layouts[0]]}
    layers = [name for name in names if name in measured]
    rows: list[list[str]] = []
    for layer in layers:
        row = [layer]
        for layout in layouts:
            values = found[target, trunk, layout]
            pair = (values.get((layer, kind)) for kind in ("activation", "weight gradient"))
            row.append(" / ".join("–" if v is None else f"{v:.2f}" for v in pair))
        rows.append(row)
    every = [list(found[target, trunk, layout].values()) for layout in layouts]
    rows.append(["**all**", *(f"{min(v):.2f} – {max(v):.2f}" for v in every)])
    title = (
        f"**{target}; trunk {trunk}.** Standard deviation over that of the native init: "
        "activation / gradient of the weight. The last row is the range over all layers, with "
        "the gradients of activations too."
    )
    return table(title, ["layer", *layouts], rows)


def setup(num_seeds: int) -> list[str]:
    """Return what was run, in words."""
    return [
        "Targets with PyTorch's own init: an MLP 64-128-128-128-128-10; a ResNet on 3x16x16 "
        "inputs, 16, 32 and 64 channels, batch norm in training mode; a transformer of width 64 "
        "(4 heads, 128 hidden) over 16 tokens of 50. Loss: cross-entropy on random labels.",
        f"Condition Embedding({NUM_CONDITIONS}, 32), init Native() (the default); {num_seeds} "
        f"hypernetworks with {NUM_CONDITIONS} conditions each, against "
        f"{num_seeds * NUM_CONDITIONS} fresh targets.",
        "Unscaled is a head that knows nothing of its target: every number has std 0.1.",
    ]
