"""Small hypernetworks for the tests of what users see."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests._support import compare, targets
from tests._support.on_torch import hypernetwork
from tests._support.on_torch import shaken as shaken

LAYOUTS: dict[str, Any] = {
    "full": hl.Full(),
    "chunked": hl.Chunked(7, embedding=3),
    "chunked-per-condition": hl.Chunked(7, embedding=3, per_condition=True),
    "grouped": hl.Grouped(embedding=3),
    "grouped-layers": hl.Grouped(embedding=3, unit=hl.Layers()),
    "grouped-tiles": hl.Grouped(embedding=3, unit=hl.Tiles(smallest=2)),
    "grouped-largest": hl.Grouped(embedding=3, unit=hl.Largest(5)),
    "per-condition": hl.PerCondition(),
    "shared": hl.Shared(),
    # Nothing names the last layer: it keeps the target's own tensors.
    "mix": {"0.weight": hl.Chunked(5), "0.bias": hl.PerCondition(), "2.*": hl.Full()},
}

X = torch.linspace(-1, 1, 42).reshape(2, 7, 3)  # inputs for two conditions


mlp = partial(targets.mlp, 3, 4, 4, 2, seed=0)  # the target of most tests: 46 numbers


close = partial(compare.close, tolerance=1e-5)


def make(target: nn.Module | None = None, seed: int = 0, **choices: Any) -> hl.HyperNetwork:
    """Make a hypernetwork, of three ids if nothing else is said, and move it from its start."""
    target = mlp() if target is None else target
    return shaken(hypernetwork(lambda: target, seed=seed, **choices))


def make_with_trunk(
    seed: int = 0, target: nn.Module | None = None, **choices: Any
) -> hl.HyperNetwork:
    choices = {"trunk": hl.MLP(6), **choices}
    return make(target, seed, **choices)


def shallow() -> nn.Module:
    """A smaller target: 26 numbers."""
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def make_shallow(target: nn.Module | None = None, **choices: Any) -> hl.HyperNetwork:
    """Make a hypernetwork of three ids, at its start."""
    choices = {"condition": hl.Embedding(3, 5), **choices}
    return hl.HyperNetwork(shallow() if target is None else target, **choices)


def identical(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two dicts of tensors are bitwise the same."""
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def same_outputs(first: hl.HyperNetwork, second: hl.HyperNetwork, condition: Any) -> None:
    """Assert that two hypernetworks generate bitwise the same."""
    made, again = first.generate(condition), second.generate(condition)
    assert list(made) == list(again)
    assert identical(made, again)
    assert [v.dtype for v in made.values()] == [v.dtype for v in again.values()]


def other_seed() -> nn.Module:
    """The same target with other values."""
    return mlp(seed=99)
