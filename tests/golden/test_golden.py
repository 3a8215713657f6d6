"""What users hold: public names, names and shapes of learned tensors, and short loss curves.

A failure here says that users will see a change. If it is meant, see `golden.py` for the command
that writes the files anew.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import hyperloom
import hyperloom.extend
import hyperloom.jax
import hyperloom.torch
import hyperloom.torch as hl
from tests._support.on_torch import hypernetwork
from tests.golden.golden import golden_numbers, golden_text

LAYOUTS: dict[str, Any] = {
    "full": hl.Full(),
    "chunked": hl.Chunked(10, embedding=4),
    "chunked-per-condition": hl.Chunked(10, embedding=4, per_condition=True),
    "grouped": hl.Grouped(embedding=4),
    "grouped-layers": hl.Grouped(embedding=4, unit=hl.Layers()),
    "grouped-tiles": hl.Grouped(embedding=4, unit=hl.Tiles(smallest=2)),
    "per-condition": hl.PerCondition(),
    "shared": hl.Shared(),
    "mix": {"0.weight": hl.Chunked(5, embedding=2), "1.*": hl.PerCondition(), "0.bias": hl.Full()},
}


def target() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)).double()


def build_recorded(layout: str) -> hl.HyperNetwork:
    return hypernetwork(
        target,
        condition=hl.Embedding(5, 8),
        trunk=hl.MLP(16),
        layout=LAYOUTS[layout],
        form={"0.weight": hl.Delta(trained=True)},
    )


MODULES = [hyperloom, hyperloom.extend, hyperloom.torch, hyperloom.jax]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_public_names(module: ModuleType) -> None:
    names = "\n".join(sorted(module.__all__))
    assert names == golden_text(f"names-{module.__name__}.txt", names)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_state_dicts(layout: str) -> None:
    state = build_recorded(layout).state_dict()
    shown = "\n".join(f"{name} {tuple(value.shape)}" for name, value in state.items())
    assert shown == golden_text(f"state-{layout}.txt", shown)


def curve(layout: str) -> list[float]:
    """Return the loss at each of 20 steps: two tasks, the second beside a remembered first."""
    hnet = build_recorded(layout)
    reg = hl.OutputRegularizer(0.1)
    optimizer = torch.optim.Adam(hnet.parameters(), lr=0.01)
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(8, 3)
    tasks = [torch.stack([x.sum(-1), x.prod(-1)], -1), torch.cos(3 * x[:, :2])]
    losses = []
    for task, y in enumerate(tasks):
        reg.remember(hnet, range(task))
        for _ in range(10):
            optimizer.zero_grad()
            loss = (hnet(x, condition=task) - y).square().mean() + reg(hnet)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_curves(layout: str) -> None:
    losses = curve(layout)
    assert losses[9] < losses[0]
    golden = golden_numbers("losses.json", layout, losses)
    torch.testing.assert_close(losses, golden, rtol=1e-4, atol=0)
