"""`doctor()` on values, scales, dtypes and slow paths; and it leaves everything as it was."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom._core.choices.execution import SlowWarning
from hyperloom._core.reports.readings import Level, Readings, TensorReading
from tests.on_torch.examined import X, examined, finding, healthy

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
    """Looks at a sum over its rows, which neither vmap nor rows can: its batch is run as a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y if y.sum().item() > 0 else -y


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
    row = TensorReading("t", 1.0, 1.0, 1.0, 1.0, False, False, None, True, 1.0)
    report = hl.Report(Readings("Net", 2, tensors=(row,) * 99))
    assert "... and 59 more" in repr(report)
