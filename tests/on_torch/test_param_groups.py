"""`param_groups`: every parameter once, wide matrices slower, a step the same at every width."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import hyperloom.torch as hl
from tests._support import targets
from tests._support.on_torch import hypernetwork
from tests.on_torch.cases import CASES, Case

mlp = partial(targets.mlp, 6, 16, 2, seed=0)


build = partial(hypernetwork, mlp, seed=1, condition=hl.Embedding(3, 8))


def rates(module: nn.Module, lr: float = 1.0) -> dict[str, float]:
    names = {id(p): name for name, p in module.named_parameters()}
    groups = hl.param_groups(module, lr)
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_parameter_is_in_one_group(case: Case) -> None:
    hnet = case.build()
    groups = hl.param_groups(hnet, 0.1)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in hnet.parameters())
    assert groups[0]["name"] == "lr"
    assert groups[0]["lr"] == 0.1
    assert len({group["name"] for group in groups}) == len(groups)
    torch.optim.AdamW(groups)


def test_matrices_that_read_features_are_divided_by_their_inputs() -> None:
    hnet = build(trunk=hl.MLP(32, 64), layout=hl.Chunked(50, embedding=4))
    divided = {name: rate for name, rate in rates(hnet).items() if rate != 1.0}
    assert divided == {"heads.chunked.weight": 1 / 64, "trunks.0.1.weight": 1 / 32}
    assert [group["name"] for group in hl.param_groups(hnet, 1.0)] == ["lr", "lr/32", "lr/64"]


def test_heads_without_a_trunk_read_the_condition_and_the_slot() -> None:
    assert rates(build())["heads.full.weight"] == 1 / 8
    assert rates(build(layout=hl.Chunked(50, embedding=4)))["heads.chunked.weight"] == 1 / 12


def test_a_module_of_the_users_own_is_at_the_rate() -> None:
    class Set(nn.Module):
        dim = 8

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).mean(-2)

    found = rates(
        build(condition=Set(), trunk=nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 24)))
    )
    assert {name for name, rate in found.items() if rate != 1.0} == {"heads.full.weight"}
    assert found["heads.full.weight"] == 1 / 24


def test_hypernetworks_inside_another_module_are_found() -> None:
    inner, other = build(trunk=hl.MLP(32)), build(trunk=hl.MLP(16))
    model = nn.ModuleDict({"first": inner, "plain": nn.Linear(4, 4), "second": other})
    found = {name: rate for name, rate in rates(model).items() if rate != 1.0}
    assert found == {"first.heads.full.weight": 1 / 32, "second.heads.full.weight": 1 / 16}
    both = hl.Assembled(mlp(), {"a": inner, "b": other}, lambda made: made["a"])
    assert sum(rate != 1.0 for rate in rates(both).values()) == 2
    assert [group["name"] for group in hl.param_groups(nn.Linear(2, 2), 0.1)] == ["lr"]


@pytest.mark.parametrize("layout", [hl.Full(), hl.Chunked(60, embedding=8), hl.Grouped()], ids=str)
def test_a_step_is_as_large_at_every_width(layout: Any) -> None:
    """Relative change of what is generated, by a first step of Adam."""
    x, condition = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(0)), range(3)
    moved: dict[bool, list[float]] = {}
    for groups in (True, False):
        for width in (16, 64, 256):
            hnet = build(trunk=hl.MLP(width, width), layout=layout)
            learned: Any = hl.param_groups(hnet, 1e-3) if groups else hnet.parameters()
            optimizer = torch.optim.Adam(learned, 1e-3)
            before = hnet.generate(condition)["2.weight"].detach()
            hnet(x, condition=condition).square().mean().backward()
            optimizer.step()
            change = (hnet.generate(condition)["2.weight"] - before).square().mean().sqrt()
            moved.setdefault(groups, []).append((change / before.std()).item())
    assert max(moved[True]) < 2 * min(moved[True])
    assert moved[False][2] > 8 * moved[False][0]
    assert max(moved[True]) < 0.1 < 0.3 < moved[False][2]


@pytest.mark.parametrize("lr", [None, "0.1", True, [0.1], -0.1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(lr: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^lr: got"):
        hl.param_groups(build(), lr)


@pytest.mark.parametrize("module", [None, [1], nn.Linear, nn.ReLU()])
def test_what_has_no_parameters_is_refused(module: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^module: got"):
        hl.param_groups(module, 0.1)
