"""`doctor(optimizer=)`: how far a step moves what is generated, and nothing is left behind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom._core.reports.readings import Level
from tests.on_torch.examined import X, finding, healthy


def examined(hnet: hl.HyperNetwork, optimizer: Any) -> hl.Report:
    return hnet.doctor(X, condition=[0, 1, 2], optimizer=optimizer)


def wide() -> hl.HyperNetwork:
    return healthy(trunk=hl.MLP(1024))


def test_a_step_that_is_too_large_is_a_fault() -> None:
    hnet = wide()
    report = examined(hnet, torch.optim.Adam(hnet.parameters(), 1e-3))
    found = finding(report, "step", "one step of Adam moves it by up to ")
    assert set(found.where) == {t.name for t in hnet.plan.spec}
    assert "param_groups()" in found.text
    assert "Adam step" in repr(report)


def test_a_rate_a_little_too_large_is_a_warning() -> None:
    hnet = healthy(trunk=hl.MLP(32))
    report = examined(hnet, torch.optim.Adam(hnet.parameters(), 2e-3))
    finding(report, "step", "one step of Adam moves it by up to ", Level.WARNING)


@pytest.mark.parametrize("width", [16, 1024])
def test_nothing_is_found_with_groups(width: int) -> None:
    hnet = healthy(trunk=hl.MLP(width, width))
    report = examined(hnet, torch.optim.AdamW(hl.param_groups(hnet, 1e-3)))
    assert not report.about("step"), report
    assert report.ok


def test_the_numbers_are_those_of_a_step() -> None:
    hnet = wide()
    groups = hl.param_groups(hnet, 1e-3)
    report = examined(hnet, torch.optim.Adam(groups))
    before = {name: value.detach() for name, value in hnet.generate([0, 1, 2]).items()}
    # Adam's first step is the sign of the gradient, whatever the loss: with the same projection
    # of the outputs the numbers are the same.
    outputs = hnet(X, condition=[0, 1, 2])
    direction = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0))
    (outputs * direction).sum().backward()
    torch.optim.Adam(groups).step()
    after = hnet.generate([0, 1, 2])
    for reading in report.readings.tensors:
        old, new = before[reading.name], after[reading.name].detach()
        spread = max(float(old.std(correction=0)), hnet.plan.spec[reading.name].std)
        moved = float((new - old).square().mean().sqrt()) / spread
        assert reading.step == pytest.approx(moved, rel=0.02)
        assert reading.native_step is not None
        assert 0.0005 < reading.native_step < 0.05


def test_nothing_is_left_behind() -> None:
    hnet = wide()
    optimizer = torch.optim.Adam(hl.param_groups(hnet, 1e-3), foreach=True)
    hnet(X, condition=[0, 1, 2]).sum().backward()
    optimizer.step()
    called: list[Any] = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    values = {name: p.detach().clone() for name, p in hnet.named_parameters()}
    grads = {name: p.grad.clone() for name, p in hnet.named_parameters() if p.grad is not None}
    state, kept = copy.deepcopy(optimizer.state_dict()), schedule.state_dict()
    draws = torch.get_rng_state()
    examined(hnet, optimizer)
    assert not called
    assert torch.equal(torch.get_rng_state(), draws)
    assert schedule.state_dict() == kept
    for name, p in hnet.named_parameters():
        assert torch.equal(p, values[name])
        assert p.grad is not None
        assert torch.equal(p.grad, grads[name])
    now = optimizer.state_dict()
    assert now["param_groups"] == state["param_groups"]
    for index, entry in state["state"].items():
        assert all(torch.equal(value, now["state"][index][key]) for key, value in entry.items())


def test_parameters_that_no_group_has_are_named() -> None:
    hnet = healthy()
    heads = hnet.heads.parameters()
    found = finding(
        examined(hnet, torch.optim.Adam(heads, 1e-4)), "step", "in no group", Level.WARNING
    )
    assert "condition.table.0" in found.where
    assert not any(name.startswith("heads.") for name in found.where)


def test_gradient_descent_is_shown_and_not_judged() -> None:
    hnet = wide()
    report = examined(hnet, torch.optim.SGD(hnet.parameters(), 10.0))
    finding(report, "step", "grows with the gradient", Level.NOTE)
    assert report.ok
    assert "SGD step" in repr(report)


def test_an_optimiser_that_wants_more_is_noted() -> None:
    hnet = wide()
    report = examined(hnet, torch.optim.LBFGS(hnet.parameters()))
    finding(report, "step", "could not be tried: TypeError", Level.NOTE)
    assert report.ok


def test_an_optimiser_with_other_parameters_beside() -> None:
    hnet, other = wide(), nn.Linear(3, 3)
    optimizer = torch.optim.Adam([*hl.param_groups(hnet, 1e-3), {"params": other.parameters()}])
    assert examined(hnet, optimizer).ok


def test_what_is_no_optimiser_is_refused() -> None:
    given: Any
    for given in (1e-3, "adam", torch.optim.Adam):
        with pytest.raises(TypeError, match=r"^optimizer: got .*wanted a torch\.optim\.Optimizer"):
            examined(healthy(), given)


class Alike(nn.Module):
    """Vectors that have almost everything in common, as a mean over a set gives."""

    dim = 5

    def __init__(self, common: float) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.common = common

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.common


@pytest.mark.parametrize(("common", "ok"), [(0.0, True), (60.0, False)])
def test_a_condition_that_hardly_varies_is_named(common: float, ok: bool) -> None:
    hnet = healthy(condition=Alike(common))
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    report = hnet.doctor(X, condition=values)
    text = "the condition vectors hardly differ, by "
    assert any(text in f.text for f in report.about("condition")) is not ok
    if not ok:
        finding(report, "condition", text, Level.WARNING)
