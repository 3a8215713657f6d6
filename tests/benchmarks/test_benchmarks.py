"""The benchmark suite itself: contestants agree, reports are made; nothing is timed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import _plots, _report, _run
from benchmarks._all import CASES
from benchmarks._case import Claim, Contestant, Measured, Setting, Workload, best, faster, within
from benchmarks._measure import UnequalError, check, in_turns, peak_of

TINY = Setting(tiny=True)
WORKLOADS = {f"{c.name}: {w.key}": w for c in CASES.values() for w in c.workloads(TINY)}


@pytest.mark.parametrize("key", WORKLOADS)
@pytest.mark.filterwarnings("ignore")  # of peers, as in the suite
def test_contestants_agree(key: str) -> None:
    workload = WORKLOADS[key]
    contestants = workload.make()
    differences = check(workload, contestants)
    compared = [c.name for c in contestants if c.results is not None]
    assert list(differences) == compared
    # Generating a large target compares memory and time only.
    assert len(compared) >= 3 or key.startswith("generate")
    assert sum(c.role == "ours" for c in contestants) == 1
    for contestant in contestants:
        if contestant.note is not None:
            assert contestant.note()
        if contestant.results is None:
            contestant.step()


def two(first: torch.Tensor, second: torch.Tensor) -> list[Contestant]:
    return [
        Contestant("a", lambda: first, lambda made: {"y": made}, "ours"),
        Contestant("b", lambda: second, lambda made: {"y": made}),
    ]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (torch.tensor([1.0, 2.001]), "y differs by 0.0005"),
        (torch.tensor([1.0, float("nan")]), "zero or not finite"),
        (torch.tensor([[1.0, 2.0]]), "y is"),
    ],
)
def test_unequal_results_are_refused(second: torch.Tensor, said: str) -> None:
    contestants = two(torch.tensor([1.0, 2.0]), second)
    with pytest.raises(UnequalError, match=said):
        check(Workload("k", lambda: contestants), contestants)


def test_results_that_are_all_zero_show_nothing() -> None:
    contestants = two(torch.zeros(2), torch.zeros(2))
    with pytest.raises(UnequalError, match="zero"):
        check(Workload("k", lambda: contestants), contestants)


def test_steps_are_timed_in_turns() -> None:
    order: list[str] = []
    now = iter(range(10_000))
    steps = {name: lambda n=name: order.append(n) for name in "abc"}
    found = in_turns(steps, 4.0, Setting(quick=True), clock=lambda: float(next(now)))
    assert order[:6] == ["a", "a", "b", "b", "c", "c"]
    rounds = [order[i : i + 3] for i in (6, 9, 12)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert rounds[0] != rounds[1]  # a step pays for what the one before it left in the caches
    assert len(order) == 15
    assert found == dict.fromkeys("abc", (1.0, 1.0, 1.0))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's proc")
def test_peak_memory_is_what_a_step_needs() -> None:
    def step() -> float:
        both = [torch.ones(25_000_000), torch.ones(25_000_000)]
        del both[0]
        return float(torch.ones(10).sum())

    assert peak_of(step, torch.device("cpu")) == pytest.approx(200e6, rel=0.05)


def test_claims() -> None:
    times = {
        "mine": Measured("ours", (1.0, 2.0, 9.0)),
        "slow": Measured("opponent", (50.0,)),
        "fast": Measured("opponent", (20.0,)),
        "other": Measured("reference", (1.0,)),
    }
    assert best(times)[0] == "fast"
    assert faster(times, 10, "x") == Claim("x: times faster than fast", 10.0, least=10)
    assert faster(times, 10, "x").holds
    assert not faster(times, 10.1, "x").holds
    assert within(times, 2.0, "x", "other").holds
    assert not within(times, 1.9, "x", "other").holds
    assert Claim("x", 3.0).holds
    assert Claim("x", 3.0).bound == "–"


@pytest.mark.filterwarnings("ignore")
def test_a_report_is_made(tmp_path: Path) -> None:
    now = iter(range(10_000_000))

    def clock() -> float:
        return float(next(now))

    cases: dict[str, Any] = {}
    for name in ("dynamic", "grid", "curves"):
        said: list[str] = []
        made = _run.run_case(CASES[name], TINY, said.append, clock=clock, memory=False)
        assert len(said) == len(made["results"])
        cases[name] = {**made, "machine": _report.machine(), "clock": "cpu"}
    page = _report.write(tmp_path, cases).read_text()
    _plots.draw(tmp_path, cases["curves"]["results"])
    assert json.loads((tmp_path / "benchmarks.json").read_text())["cases"] == cases
    assert _report.read(tmp_path) == cases
    for claim in cases["dynamic"]["claims"] + cases["grid"]["claims"]:
        assert f"| {claim['what']} |" in page
    for axis in _plots.PLOTS:
        assert (tmp_path / f"benchmarks-{axis}.png").stat().st_size > 10_000
        assert f"benchmarks-{axis}.png" in page
    # Every table has as many cells in a line as it has columns.
    tables = [line.count("|") for line in page.splitlines() if line.startswith("|")]
    assert min(tables) >= 5
