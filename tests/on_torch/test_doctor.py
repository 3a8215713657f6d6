"""`doctor()`: every fault that is injected is named, and a healthy hypernetwork is left alone."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom._doctor import Level, Readings, TensorReading
from hyperloom._execution import SlowWarning
from tests.on_torch.cases import CASES, Case

X = torch.linspace(-1, 1, 3 * 5 * 6).reshape(3, 5, 6)


def target() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2)
    )


def healthy(module: nn.Module | None = None, **choices: Any) -> hl.HyperNetwork:
    torch.manual_seed(2)
    choices = {"condition": hl.Embedding(4, 5), "trunk": hl.MLP(12), **choices}
    return hl.HyperNetwork(target() if module is None else module, **choices)


def examined(hnet: hl.HyperNetwork, x: Tensor = X, condition: Any = (0, 1, 2)) -> hl.Report:
    return hnet.doctor(x, condition=list(condition) if isinstance(condition, tuple) else condition)


def finding(report: hl.Report, check: str, words: str, level: Level = Level.FAULT) -> hl.Finding:
    """Return the one finding of a check whose text has the words; it is printed as well."""
    found = [f for f in report.about(check) if words in f.text]
    assert len(found) == 1, report
    assert found[0].level is level
    assert found[0].text in repr(report)
    assert not report.ok or level is Level.NOTE
    return found[0]


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
    assert row.rms == pytest.approx(float(made["2.weight"].square().mean().sqrt()), rel=1e-5)
    assert row.native == pytest.approx(
        float(target().get_parameter("2.weight").square().mean().sqrt()), rel=0.03
    )
    plain = [hnet.instantiate(i).get_submodule("0") for i in range(3)]
    squares = [float(plain[i](X[i]).square().mean()) for i in range(3)]
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

LORA: dict[str, Any] = {"form": {"*.weight": hl.LowRank(2)}, "layout": {"*.weight": hl.Full()}}


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


# ---- values, scales, dtypes ---------------------------------------------------------------------


def test_an_exploding_start() -> None:
    found = examined(healthy(init=hl.Unscaled(100.0)))
    assert finding(found, "scale", "norm of the generated tensor").where[0] == "0.weight"
    assert "times the native one" in finding(found, "scale", "scale of the layer's outputs").text


def test_a_vanishing_start() -> None:
    found = finding(
        examined(healthy(init=hl.Unscaled(1e-4))), "scale", "scale of the layer's outputs"
    )
    assert "of the native one" in found.text


def test_nan_in_a_parameter() -> None:
    hnet = healthy()
    with torch.no_grad():
        dict(hnet.named_parameters())["heads.full.bias"][120] = float("nan")  # in 2.weight
    report = examined(hnet)
    assert finding(report, "values", "holds NaN").where == ("heads.full.bias",)
    assert finding(report, "values", "is generated with NaN").where == ("2.weight",)
    assert finding(report, "values", "first layer").where == ("2",)


def test_nan_in_the_target() -> None:
    class Logarithm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x - 100)

    module = nn.Sequential(nn.Linear(6, 4), Logarithm(), nn.Linear(4, 4), nn.Linear(4, 2))
    report = examined(healthy(module))
    assert finding(report, "values", "first layer").where == ("2",)
    assert finding(report, "gradient", "gets a gradient with NaN")


def test_a_trunk_in_another_dtype() -> None:
    hnet = healthy()
    hnet.trunks.double()
    report = examined(hnet)
    found = finding(report, "dtype", "is float64 where the rest of the generator is float32")
    assert found.where == ("trunks.0.0.weight", "trunks.0.0.bias")
    assert "must have the same dtype" in finding(report, "call", "the call fails").text


def test_a_head_in_bfloat16() -> None:
    hnet = healthy(layout={"2.*": hl.PerCondition(), "*": hl.Full()})
    hnet.heads["per_condition"].bfloat16()
    found = finding(examined(hnet), "dtype", "is bfloat16")
    assert found.where == ("heads.per_condition.table.0",)


def test_outputs_in_another_dtype_than_the_plain_modules() -> None:
    readings = Readings("Net", 2, dtypes=(("float32",), ("bfloat16",)))
    report = hl.Report(readings)
    assert "the plain module gives bfloat16" in report.about("dtype")[0].text


def test_a_call_that_fails_is_a_finding() -> None:
    report = healthy().doctor(torch.randn(3, 5, 7), condition=[0, 1, 2])
    assert "RuntimeError" in finding(report, "call", "the call fails").text
    report = healthy().doctor(X, condition=9)
    assert "the id 9" in finding(report, "call", "the call fails").text


class Reading(nn.Module):
    """Looks at a value, which vmap cannot: its batch is run one condition after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y if y.sum().item() < 1e9 else -y


def test_what_runs_slowly_is_noted() -> None:
    hnet = healthy(Reading())
    report = examined(hnet)
    assert ".item()" in finding(report, "speed", "Reading", Level.NOTE).text
    assert "run as loop" in repr(report)
    assert not report.about("call")
    assert report.ok
    with pytest.warns(SlowWarning):  # the doctor's call was not the user's
        hnet(X, condition=[0, 1, 2])


def test_single_operations_that_run_slowly_are_noted() -> None:
    class Renormed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).renorm(2, 0, 1.0)

    report = healthy(Renormed()).doctor(torch.randn(3, 5, 6), condition=[0, 1, 2])
    assert report.about("speed"), report
    assert report.ok


def test_warnings_of_the_call_are_told() -> None:
    class Noisy(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            warnings.warn("look out", stacklevel=1)
            return super().forward(input)

    report = examined(healthy(Noisy(6, 2)))
    assert "look out" in finding(report, "call", "the call warns", Level.NOTE).text


# ---- nothing is left behind ---------------------------------------------------------------------


class Restless(nn.Module):
    """A trunk with buffers, dropout and other generators of random numbers."""

    dim = 12
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(5, 12), nn.BatchNorm1d(12)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, rows: Tensor) -> Tensor:
        self.count += 1
        noise = random.random() + np.random.rand()
        return nn.functional.dropout(self.norm(self.layer(rows)), 0.2) + 0.01 * noise


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_it_was(fails: bool) -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    hnet = healthy(module, trunk=Restless())
    hnet.trunks.eval()  # a mode unlike the rest
    hnet.trunks.get_submodule("0.module.norm").train()
    hnet(X, condition=[0, 1, 2]).sum().backward()

    def state() -> list[Any]:
        held = [*hnet.parameters(), *hnet.buffers()]
        return [
            [t.detach().clone() for t in held],
            [id(t) for t in held],
            [p.grad.clone() for p in hnet.parameters() if p.grad is not None],
            [m.training for m in hnet.modules()],
            [p.requires_grad for p in hnet.parameters()],
            torch.get_rng_state(),
            random.getstate(),
            repr(np.random.get_state()),
            {k: v for k, v in hnet.__dict__.items() if isinstance(v, bool)},
            torch.is_grad_enabled(),
        ]

    before = state()
    report = hnet.doctor(X[:, :, :5] if fails else X, condition=[0, 1, 2])
    assert bool(report.readings.errors) == fails
    for old, new in zip(before, state(), strict=True):
        if isinstance(old, list) and old and isinstance(old[0], Tensor):
            assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
        elif isinstance(old, Tensor):
            assert torch.equal(old, new)
        else:
            assert old == new


def test_under_no_grad_too() -> None:
    with torch.no_grad():
        assert examined(healthy()).ok
        assert not torch.is_grad_enabled()


def test_ids_outside_the_batch_are_no_fault() -> None:
    hnet = healthy(layout=hl.Chunked(50, embedding=4, per_condition=True))
    hnet.add_conditions(2)
    report = examined(hnet)
    assert report.ok, report
    assert "other ids" in repr(report)
    assert hnet.doctor(X[:2], condition=[4, 5]).ok


def test_nested_batches_keyword_inputs_and_shared_inputs() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, x: Tensor, *, gate: Tensor) -> dict[str, Tensor]:
            return {"y": self.layer(x) * gate}

    hnet = healthy(Gated(), condition=hl.Vector(3))
    gate = torch.rand(2, 2, 5, 1)
    report = hnet.doctor(torch.randn(2, 2, 5, 6), condition=torch.randn(2, 2, 3), gate=gate)
    assert report.ok, report
    assert report.readings.conditions == 4
    shared = hnet.doctor(X[0], condition=torch.randn(4, 3), in_dims=None, gate=gate[0, 0])
    assert shared.ok, shared


def test_long_tables_are_cut() -> None:
    row = TensorReading("t", 1.0, 1.0, 1.0, False, False, None, True, 1.0)
    report = hl.Report(Readings("Net", 2, tensors=(row,) * 99))
    assert "... and 59 more" in repr(report)
