"""`doctor()`: every fault that is injected is named, and a healthy hypernetwork is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom._core.reports.readings import Level
from tests.on_torch.cases import CASES, Case
from tests.on_torch.examined import X, examined, finding, healthy, target


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"layout": hl.Chunked(50, embedding=4)},
        {"layout": hl.Grouped(embedding=4)},
        {"layout": hl.PerCondition()},
        {"layout": {"0.*": hl.PerCondition(), "*": hl.Shared()}},
        {"form": {"*.weight": hl.Templates(4)}},
    ],
    ids=str,
)
def test_nothing_is_found_where_nothing_is_wrong(choices: dict[str, Any]) -> None:
    report = examined(healthy(**choices))
    assert report.ok, report
    assert not report.findings
    assert "nothing found" in repr(report)
    assert report.readings.conditions == 3


def test_what_is_shared_by_choice_is_noted() -> None:
    report = examined(healthy(layout=hl.Shared()))
    finding(report, "condition", "nothing depends on the condition", Level.NOTE)
    assert report.ok, report


@pytest.mark.parametrize("case", [c for c in CASES if c.form == "whole"], ids=str)
def test_no_fault_is_found_in_the_table_of_cases(case: Case) -> None:
    report = case.build().doctor(case.inputs(3), condition=case.conditions(3))
    assert all(f.level is Level.NOTE for f in report.findings), report


def test_the_tables_name_parts_tensors_and_layers() -> None:
    report = examined(healthy())
    names = {p.name for p in report.readings.parts}
    assert names == set(dict(healthy().named_parameters()))
    assert [t.name for t in report.readings.tensors] == [t.name for t in healthy().plan.spec]
    assert [x.name for x in report.readings.layers] == ["0", "2", "4"]
    for name in (*names, "0.weight", "Linear", "difference between conditions"):
        assert name in repr(report)


def test_the_numbers_are_right() -> None:
    hnet = healthy()
    report = examined(hnet)
    made = hnet.generate([0, 1, 2])
    row = next(t for t in report.readings.tensors if t.name == "2.weight")
    assert row.rms == pytest.approx(
        float(made["2.weight"].detach().square().mean().sqrt()), rel=1e-5
    )
    assert row.native == pytest.approx(
        float(target().get_parameter("2.weight").detach().square().mean().sqrt()), rel=0.03
    )
    plain = [hnet.instantiate(i).get_submodule("0") for i in range(3)]
    squares = [float(plain[i](X[i]).detach().square().mean()) for i in range(3)]
    first = report.readings.layers[0]
    assert first.activation == pytest.approx((sum(squares) / 3) ** 0.5, rel=1e-5)
    assert 0.5 < first.activation / first.native_activation < 2


# ---- the gradient is cut ------------------------------------------------------------------------


class Detaching(nn.Module):
    dim = 12

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 12)

    def forward(self, rows: Tensor) -> Tensor:
        return self.layer(rows).tanh().detach()


def test_a_detached_trunk() -> None:
    found = finding(examined(healthy(trunk=Detaching())), "gradient", "gets no gradient")
    assert found.where == (
        "condition.table.0",
        "trunks.0.module.layer.weight",
        "trunks.0.module.layer.bias",
    )


def test_a_generator_whose_outputs_are_detached() -> None:
    hnet = healthy()
    hnet.heads["full"].register_forward_hook(lambda module, args, out: out.detach())
    report = examined(hnet.train())
    found = finding(report, "gradient", "is generated without a gradient")
    assert "2.weight" in found.where
    assert "heads.full.weight" in finding(report, "gradient", "gets no gradient").where


class ByData(nn.Module):
    """Uses its weight past autograd, as code that assigns to `.data` does."""

    def __init__(self, use: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 2)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.first(x).tanh(), self.use(self.second.weight))


class Assigning(nn.Module):
    """Copies its weight into another layer's `.data`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        layer = nn.Linear(8, 8)
        layer.weight.data = self.second.weight.data
        return layer(self.first(x))


@pytest.mark.parametrize("make", [lambda: ByData(lambda w: w.data), Assigning])
def test_a_target_that_cuts_the_gradient(make: Callable[[], nn.Module]) -> None:
    report = healthy(make()).doctor(X[0], condition=0)
    found = finding(report, "gradient", "changes the outputs, which give it no gradient")
    assert found.where == ("second.weight",)


def test_a_tensor_that_the_target_does_not_use() -> None:
    class Lazy(ByData):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    report = healthy(Lazy(lambda w: w)).doctor(X, condition=[0, 1, 2])
    found = finding(report, "gradient", "is not used by the target", Level.WARNING)
    assert found.where == ("second.weight", "second.bias")


def test_no_gradient_at_all() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    report = examined(healthy(Silent()))
    assert len(finding(report, "gradient", "gets no gradient").where) == 5
    assert len(finding(report, "gradient", "changes the outputs").where) == 2


def test_a_frozen_part() -> None:
    hnet = healthy()
    hnet.trunks.requires_grad_(False)
    found = finding(examined(hnet), "gradient", "frozen", Level.WARNING)
    assert found.where == ("trunks.0.0.weight", "trunks.0.0.bias")


def test_tensors_that_nobody_trains_are_noted() -> None:
    report = examined(healthy(layout={"*.weight": hl.Full()}))
    found = finding(report, "gradient", "stays the target's own", Level.NOTE)
    assert found.where == ("0.bias", "2.bias", "4.bias")
    assert report.ok


# ---- dead parts ---------------------------------------------------------------------------------


def test_a_zeroed_generator() -> None:
    hnet = healthy()
    with torch.no_grad():
        for parameter in hnet.heads.parameters():
            parameter.zero_()
    report = examined(hnet)
    assert finding(report, "values", "nothing but zeros").where == ("heads.full.weight",)
    assert "2.weight" in finding(report, "scale", "generated as nothing but zeros").where
    finding(report, "condition", "the first to be the same: generated tensors")


def test_a_dead_head() -> None:
    hnet = healthy(layout={"2.*": hl.Chunked(40, embedding=3), "*": hl.Full()})
    with torch.no_grad():
        dict(hnet.named_parameters())["heads.chunked.weight"].zero_()
    report = examined(hnet)
    assert finding(report, "values", "a dead part").where == ("heads.chunked.weight",)
    same = finding(report, "condition", "is the same for every condition", Level.WARNING)
    assert same.where == ("2.weight", "2.bias")
    zero = finding(report, "gradient", "gets a gradient of exactly zero")
    assert "heads.chunked.slots" in zero.where


def test_a_dead_trunk() -> None:
    hnet = healthy(trunk=hl.MLP(12, norm=None))
    with torch.no_grad():
        dict(hnet.named_parameters())["trunks.0.0.bias"].fill_(-50.0)  # no unit is ever active
    report = examined(hnet)
    zero = finding(report, "gradient", "gets a gradient of exactly zero")
    assert {"condition.table.0", "trunks.0.0.weight", "trunks.0.0.bias"} < set(zero.where)
    finding(report, "condition", "the first to be the same: features")


# ---- the condition has no effect ----------------------------------------------------------------


def test_a_trunk_that_ignores_the_condition() -> None:
    class Deaf(Detaching):
        def forward(self, rows: Tensor) -> Tensor:
            return self.layer(0 * rows + 1).tanh()

    report = examined(healthy(trunk=Deaf()))
    finding(report, "condition", "the first to be the same: features")


def test_collapsed_embeddings() -> None:
    hnet = healthy()
    with torch.no_grad():
        table = dict(hnet.named_parameters())["condition.table.0"]
        table.copy_(table[:1].expand_as(table))
    report = examined(hnet)
    assert finding(report, "condition", "collapsed").where == ("condition.table.0",)
    finding(report, "condition", "the first to be the same: condition vectors")


@pytest.mark.parametrize("own", [False, True])
def test_collapsed_slot_embeddings(own: bool) -> None:
    hnet = healthy(layout=hl.Chunked(50, embedding=4, per_condition=own))
    name = "heads.chunked.slots" + (".0" if own else "")
    with torch.no_grad():
        slots = dict(hnet.named_parameters())[name]
        slots.copy_(slots.narrow(-2, 0, 1).expand_as(slots))
    assert finding(examined(hnet), "condition", "collapsed").where == (name,)


class Encoder(nn.Module):
    dim = 4

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(3, 4), gain

    def forward(self, value: Tensor) -> Tensor:
        return self.layer(self.gain * value)


def test_an_encoder_that_gives_all_conditions_the_same_vector() -> None:
    raw = torch.randn(3, 3)
    assert healthy(condition=Encoder(1.0)).doctor(X, condition=raw).ok
    report = healthy(condition=Encoder(0.0)).doctor(X, condition=raw)
    finding(report, "condition", "the first to be the same: condition vectors")
    weak = healthy(condition=Encoder(1e-5)).doctor(X, condition=raw)
    finding(weak, "condition", "hardly depend", Level.WARNING)


@pytest.mark.parametrize(
    ("choice", "condition", "x", "why"),
    [
        (hl.Vector(3), torch.ones(3), X[0], "a batch of two conditions"),
        (hl.Vector(3), torch.ones(3, 3), X, "conditions given are all the same"),
        (hl.Embedding(1, 4), 0, X[0], "only one id"),
    ],
    ids=["single", "equal", "one-id"],
)
def test_what_cannot_be_checked_is_said(choice: Any, condition: Any, x: Tensor, why: str) -> None:
    report = healthy(condition=choice).doctor(x, condition=condition)
    assert why in finding(report, "condition", "was not checked", Level.NOTE).text


def test_one_id_is_compared_with_another() -> None:
    hnet = healthy()
    assert (dict(hnet.doctor(X[0], condition=2).readings.stages)["outputs"] or 0) > 0.01


# ---- corrections --------------------------------------------------------------------------------

LORA: dict[str, Any] = {"form": {"*.weight": hl.LoRA(2)}, "layout": {"*.weight": hl.Full()}}


@pytest.mark.parametrize("layout", [hl.Full(), hl.Grouped(embedding=3), hl.PerCondition()], ids=str)
def test_a_correction_that_is_all_zero(layout: Any) -> None:
    """As a LoRA starts, and as one that never trained still is: named, but no fault by itself."""
    hnet = healthy(form=hl.Delta(), layout=layout)
    report = examined(hnet)
    finding(report, "condition", "the correction is exactly zero", Level.WARNING)
    finding(report, "condition", "all generated changes are still at their start", Level.WARNING)
    assert all(f.level is not Level.FAULT for f in report.findings)
    with torch.no_grad():
        for parameter in hnet.heads.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    assert examined(hnet).ok


def test_a_lora_that_never_trains() -> None:
    """Zero corrections and, in addition, nothing that would change that."""
    hnet = healthy(**LORA)
    assert all(f.level is not Level.FAULT for f in examined(hnet).findings)
    with torch.no_grad():
        for parameter in hnet.heads.parameters():
            parameter.zero_()  # both factors
    report = examined(hnet)
    assert (
        "heads.full.weight" in finding(report, "gradient", "gets a gradient of exactly zero").where
    )
    finding(report, "condition", "the correction is exactly zero", Level.WARNING)


def test_a_start_at_the_template_is_no_fault() -> None:
    report = examined(healthy(init=hl.BiasHyperInit()))
    assert all(f.level is not Level.FAULT for f in report.findings), report
    note = finding(report, "gradient", "right before the first step", Level.NOTE)
    assert "trunks.0.0.weight" in note.where


def test_methods_and_rows_are_examined() -> None:
    class Coder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(8, 2), nn.Linear(2, 8)

        def encode(self, x: Tensor) -> Tensor:
            return self.encoder(x).tanh()

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.encode(x))

    torch.manual_seed(0)
    hnet = hl.HyperNetwork(Coder(), condition=hl.Embedding(5, 4))
    optimizer, x = torch.optim.Adam(hnet.parameters()), torch.randn(6, 8)
    rows: dict[str, Any] = {"condition": [3, 1, 4, 2], "rows": [1, 0, 3, 1, 0, 0]}
    report = hnet.doctor(x, **rows, method="encode", optimizer=optimizer)
    assert report.readings.strategy.startswith("run as rows")
    assert [layer.name for layer in report.readings.layers] == ["encoder"]
    unused = finding(report, "gradient", "is not used by the target", Level.WARNING)
    assert unused.where == ("decoder.weight", "decoder.bias")
    assert report.readings.step is not None
    assert not report.readings.step.unmeasured
    assert hnet.doctor(x, **rows).ok
    layers = [used.layer for used in hnet.explain(x, **rows).used if used.layer is not None]
    assert {layer.rows for layer in layers} == {1}  # of 4 conditions, not of the two examined
    failed = hnet.doctor(x, condition=[3, 1], method="encod")
    assert "method: got 'encod'; wanted a method of Coder. Did you mean 'encode'" in repr(failed)
