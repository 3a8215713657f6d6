"""The calibration of the cost model: on timings that are made up, and on one layer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks import _mlp, calibrate
from benchmarks.calibrate import Cell, Score
from hyperloom._core.plan import cost

TRUE = {**{name: getattr(cost.DEVICES["cpu"], name) for name in calibrate.FLOATS}}


def made_up(constants: dict[str, float]) -> list[Cell]:
    """Return layers that take exactly as long as the model says with these constants."""
    cost.DEVICES["made up"] = cost.Device(name="made up", **constants)
    try:
        return [
            dataclasses.replace(
                cell,
                seconds={e.choice: e.seconds for e in cost.estimates(cell.layer, 4, "made up")},
            )
            for cell in calibrate.cells(quick=True)
        ]
    finally:
        del cost.DEVICES["made up"]


def test_a_perfect_model_is_recognised() -> None:
    score = Score(made_up(TRUE), TRUE)
    assert score.right == len(score.regrets) == len(calibrate.cells(quick=True))
    assert score.loss == pytest.approx(0.0, abs=1e-12)
    assert "candidate" not in cost.DEVICES


def test_the_fit_finds_constants_that_choose_right() -> None:
    found = made_up(TRUE)
    wrong = {
        name: value * (8.0 if i % 2 else 0.125) for i, (name, value) in enumerate(TRUE.items())
    }
    before = Score(found, wrong)
    after = Score(found, calibrate.fit(found, [wrong]))
    assert before.right < len(found)
    assert after.loss < before.loss / 20
    assert after.right >= len(found) - 1


def test_a_regret_is_the_time_lost() -> None:
    cell = Cell(2, 3, 4, 5, 6, True, {"dense": 2.0, "inputs": 3.0})
    assert cell.best == "dense"
    assert cell.regret("dense") == 0.0
    assert cell.regret("inputs") == 0.5
    assert cell.regret("outputs") == 3.0  # it did not fit in memory


@pytest.mark.parametrize("way", calibrate.WAYS)
def test_a_layer_is_made_to_go_one_way(way: str) -> None:
    problem = _mlp.Problem((6, 5), 3, 4, 2, input_gradient=True, device=torch.device("cpu"))
    free = _mlp.hyperloom(problem)
    for made, wanted in zip(calibrate.forced(problem, way)(), free.step(), strict=True):
        torch.testing.assert_close(made, wanted)
    ways: list[str] = []

    def look(y: torch.Tensor, leaves: object) -> tuple[torch.Tensor, ...]:
        said = problem.hnet.explain(problem.x, condition=problem.c)
        ways.append(said[problem.names[0]].choice)
        return (y,)

    problem.gradients = look  # type: ignore[method-assign]
    calibrate.forced(problem, way)()
    assert ways == [way]


def test_timings_are_kept_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [Cell(2, 3, 4, 8, 8, True, {}), Cell(2, 1, 2, 8, 4, True, {})]
    monkeypatch.setattr(calibrate, "cells", lambda quick: small)
    path = tmp_path / "timings.json"
    threads = str(torch.get_num_threads())
    for _ in range(2):
        assert calibrate.main(["--quick", "--threads", threads, "--timings", str(path)]) == 0
    stored = json.loads(path.read_text())
    assert [set(cell["seconds"]) for cell in stored["cells"]] == [set(calibrate.WAYS)] * 2
    said = capsys.readouterr().out
    assert said.count('"cpu": Device("cpu", gemm=') == 2
    assert said.count("fitted constants: fastest way in ") == 2
