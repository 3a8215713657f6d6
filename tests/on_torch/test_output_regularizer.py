"""The output regulariser against a loop over conditions, by hand."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests._support.on_torch import shaken
from tests.on_torch.builders import LAYOUTS, X, close, make, mlp


def number(value: Tensor) -> float:
    return float(value.detach())


def drift(
    hnet: hl.HyperNetwork,
    old: dict[str, Tensor],
    conditions: list[Any],
    weight: Callable[[str], Any] = lambda name: 1.0,
) -> list[Tensor]:
    """Return the weighted squared drift of each condition, one condition at a time."""
    found = []
    for i, condition in enumerate(conditions):
        now = hnet.generate(condition)
        terms = [((now[n] - old[n][i]) ** 2 * weight(n)).sum() for n in now]
        found.append(torch.stack(terms).sum())
    return found


def moved(hnet: hl.HyperNetwork, reg: hl.OutputRegularizer, conditions: Any) -> dict[str, Tensor]:
    """Let `reg` remember, move the hypernetwork, return what was remembered."""
    reg.remember(hnet, conditions)
    old = {name: value.detach().clone() for name, value in hnet.generate(conditions).items()}
    assert number(reg(hnet)) < 1e-20  # a subset is another product, rounded another way
    shaken(hnet)
    return old


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_penalty_is_the_mean_squared_drift(layout: str) -> None:
    hnet = make(mlp().double(), condition=hl.Embedding(5, 4), layout=LAYOUTS[layout])
    reg = hl.OutputRegularizer(0.7)
    old = moved(hnet, reg, range(4))
    assert reg.num_conditions == 4
    drifts = drift(hnet, old, [0, 1, 2, 3])
    expected = 0.7 / 4 * torch.stack(drifts).sum()
    close(reg(hnet), expected, tolerance=1e-10)
    assert number(expected) > 0.01
    parameters = list(hnet.parameters())
    ours = torch.autograd.grad(reg(hnet), parameters, allow_unused=True, materialize_grads=True)
    loop = torch.autograd.grad(expected, parameters, allow_unused=True, materialize_grads=True)
    close(ours, loop, tolerance=1e-10)
    # What was remembered is a constant.
    assert not any(value.requires_grad for value in dict(reg.targets.tensors()).values())


@pytest.mark.parametrize(
    "conditions", [range(4), [0, 1, 2, 3], (0, 1, 2, 3), torch.arange(4)], ids=repr
)
@pytest.mark.parametrize("subset", [1, 2, 3, 4, 9])
def test_a_subset_is_the_mean_over_those_drawn(conditions: Any, subset: int) -> None:
    hnet = make(mlp().double(), condition=hl.Embedding(5, 4))
    reg = hl.OutputRegularizer(0.7, subset=subset)
    old = moved(hnet, reg, conditions)
    drifts = torch.stack(drift(hnet, old, [0, 1, 2, 3]))
    num = min(subset, 4)
    possible = [0.7 / num * drifts[list(c)].sum() for c in itertools.combinations(range(4), num)]
    seen = set()
    for _ in range(60):
        value = reg(hnet)
        near = [i for i, p in enumerate(possible) if abs(number(value - p)) < 1e-9 * number(p)]
        assert len(near) == 1
        seen |= set(near)
    assert len(seen) == len(possible)  # drawn anew at each call


def test_a_subset_of_conditions_with_parts() -> None:
    condition = hl.Concat(hl.Embedding(5, 2), hl.Vector(3))
    hnet = make(mlp().double(), condition=condition, layout=hl.PerCondition())
    vectors, shared = torch.randn(4, 3).double(), torch.randn(3).double()
    for vector, each in ((vectors, list(vectors)), (shared, [shared] * 4)):
        reg = hl.OutputRegularizer(1.0, subset=1)
        old = moved(hnet, reg, ([3, 1, 2, 0], vector))
        drifts = torch.stack(drift(hnet, old, list(zip([3, 1, 2, 0], each, strict=True))))
        for _ in range(10):
            assert number((reg(hnet) - drifts).abs().min()) < 1e-9


def test_weights_and_masks() -> None:
    hnet = make(mlp().double(), condition=hl.Embedding(5, 4))
    mask = (torch.rand(4, 3) < 0.5).double()
    row = torch.rand(3).double()
    weights: dict[str, Any] = {"0.weight": mask, "0.*": 3.0, "2.weight": 0.0, "4.bias": 0.5}
    reg = hl.OutputRegularizer(1.3, weights=weights)
    old = moved(hnet, reg, range(3))

    def weight(name: str) -> Any:
        own = {"0.weight": mask, "0.bias": 3.0, "2.weight": 0.0, "4.bias": 0.5}
        return own.get(name, 1.0)

    expected = 1.3 / 3 * torch.stack(drift(hnet, old, [0, 1, 2], weight)).sum()
    close(reg(hnet), expected, tolerance=1e-10)
    # A mask broadcasts to the tensor, never past it to the conditions.
    rows = hl.OutputRegularizer(1.0, weights={"0.weight": row, "*": 0.0})
    old = moved(hnet, rows, range(3))
    only = [
        ((hnet.generate(i)["0.weight"] - old["0.weight"][i]) ** 2 * row).sum() for i in range(3)
    ]
    close(rows(hnet), torch.stack(only).mean(), tolerance=1e-10)


def test_nothing_remembered_is_no_penalty() -> None:
    hnet = make(mlp().double())
    reg = hl.OutputRegularizer(5.0)
    assert (number(reg(hnet)), reg(hnet).dtype, reg.num_conditions) == (0.0, torch.float64, 0)
    reg.remember(hnet, [0, 1])
    shaken(hnet)
    assert number(reg(hnet)) > 0
    for nothing in (range(0), [], ()):
        reg.remember(hnet, nothing)
        assert number(reg(hnet)) == 0.0


def test_remembering_again_replaces() -> None:
    hnet = make()
    reg = hl.OutputRegularizer(1.0)
    reg.remember(hnet, [0])
    shaken(hnet)
    reg.remember(hnet, [0, 1])
    assert reg.num_conditions == 2
    assert number(reg(hnet)) == 0.0


def test_old_conditions_are_remembered_while_new_ones_are_added() -> None:
    hnet = make(layout=hl.Chunked(7, per_condition=True))
    reg = hl.OutputRegularizer(1.0)
    reg.remember(hnet, range(3))
    hnet.add_conditions(2)
    assert number(reg(hnet)) == 0.0
    reg.remember(hnet, range(5))
    assert reg.num_conditions == 5


def test_the_penalty_holds_old_networks_still() -> None:
    def forgotten(strength: float) -> float:
        hnet = make(seed=3)
        reg = hl.OutputRegularizer(strength)
        reg.remember(hnet, [0])
        before = hnet(X[0], condition=0).detach()
        optimizer = torch.optim.Adam(hnet.parameters(), lr=0.01)
        for _ in range(40):
            optimizer.zero_grad()
            ((hnet(X[0], condition=1) - 1).square().mean() + reg(hnet)).backward()
            optimizer.step()
        return float((hnet(X[0], condition=0) - before).detach().square().mean())

    assert forgotten(10.0) < 0.1 * forgotten(0.0)


# ---- a module ------------------------------------------------------------------------------------


def remembering(gram: bool, seed: int = 0) -> tuple[hl.HyperNetwork, hl.OutputRegularizer]:
    """Return a hypernetwork that has moved on, and what remembers it; by heads or by outputs."""
    torch.manual_seed(seed)
    condition = hl.Concat(hl.Embedding(4, 3), hl.Vector(2))
    target = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 2))
    layout = hl.Full() if gram else hl.Chunked(50, embedding=2)
    hnet = hl.HyperNetwork(target, condition=condition, trunk=hl.MLP(3), layout=layout)
    reg = hl.OutputRegularizer(0.5, weights={"0.*": 2.0})
    reg.remember(hnet, ([0, 2, 3], torch.ones(3, 2)))
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return hnet, reg


@pytest.mark.parametrize("gram", [True, False])
def test_what_is_remembered_is_saved_and_moves(
    gram: bool, tmp_path: Path, take: Callable[..., None]
) -> None:
    take("gram" if gram else "outputs", "penalties")
    hnet, reg = remembering(gram)
    assert (len(reg.memories) > 0) is gram
    assert not list(reg.parameters())
    wanted = reg(hnet)
    torch.save(reg.state_dict(), tmp_path / "reg.pt")
    state = torch.load(tmp_path / "reg.pt", weights_only=True)
    for fresh in (hl.OutputRegularizer(0.5, weights={"0.*": 2.0}), remembering(not gram, 1)[1]):
        fresh.load_state_dict(state)
        assert fresh.num_conditions == 3
        assert torch.equal(fresh(hnet), wanted)
    inside = nn.ModuleDict({"reg": reg}).state_dict()
    around = nn.ModuleDict({"reg": hl.OutputRegularizer(0.5, weights={"0.*": 2.0})})
    around.load_state_dict(inside)
    assert torch.equal(around["reg"](hnet), wanted)
    assert torch.equal(copy.deepcopy(reg)(hnet), wanted)
    moved = reg.double()(hnet.double())
    assert moved.dtype == torch.float64
    torch.testing.assert_close(moved.float(), wanted)


def test_what_the_caller_does_with_the_conditions_afterwards() -> None:
    torch.manual_seed(0)
    hnet = hl.HyperNetwork(nn.Linear(3, 2), condition=hl.Embedding(4, 3))
    reg, ids = hl.OutputRegularizer(1.0), [0, 1]
    reg.remember(hnet, ids)
    ids += [2, 3]
    assert reg(hnet) == 0
    held = torch.tensor([0, 1])
    reg.remember(hnet, held)
    held.fill_(3)
    assert reg(hnet) == 0
