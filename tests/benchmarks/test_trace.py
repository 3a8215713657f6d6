"""How far calls travel: counts, which are the same on every machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import against, trace
from benchmarks.trace import way_of

KINDS = list(trace.calls())
# Not those with weights in parts, whose objects answer each layer, and with buffers to store.
OWN_FORWARD = [
    *("own forward", "own forward, ids", "own forward, trunk", "own forward, chunks"),
    "convolution",
]
CHAINS = [kind for kind in KINDS if "chain" in kind]


def test_a_batch_on_a_forward_of_its_own_stays_in_few_files() -> None:
    calls = trace.calls()
    for kind in OWN_FORWARD:
        way = way_of(calls[kind])
        assert way.files <= 12, kind
        assert way.changes <= 30, kind


def test_a_chain_takes_few_functions() -> None:
    calls = trace.calls()
    assert CHAINS
    for kind in CHAINS:
        assert way_of(calls[kind]).functions <= 60, kind


def test_a_target_without_buffers_is_not_asked_for_them() -> None:
    calls = trace.calls()
    asked = {
        kind: any(file.endswith("buffers.py") for file, _ in way_of(calls[kind]).steps)
        for kind in ("own forward", "convolution", "chain, chunks", "batch norm")
    }
    assert asked == {
        "own forward": False,
        "convolution": False,
        "chain, chunks": False,
        "batch norm": True,
    }


def test_a_way_is_decided_once() -> None:
    call = trace.calls()["own forward"]
    functions = [name for _, name in way_of(call, warm=0).steps]
    assert "_decided" in functions
    # And once more when it is known that such calls can be run at once.
    assert "_decided" not in [name for _, name in way_of(call, warm=1).steps]


def test_counts() -> None:
    def outer() -> None:
        inner()

    def inner() -> None:
        torch.nn.functional.relu(torch.zeros(1))

    way = way_of(outer)
    assert (way.functions, way.files, way.changes) == (0, 0, 0)
    assert way.python == 2  # `inner` and the function of torch


def test_the_table_has_a_line_for_each_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["trace"])
    trace.main()
    printed = capsys.readouterr().out
    assert all(f"\n{kind} " in printed for kind in KINDS)
    monkeypatch.setattr("sys.argv", ["trace", "chain"])
    trace.main()
    assert "HyperNetwork.forward" in capsys.readouterr().out


class FakeVersion:
    """A version whose calls take 1 or 3 s, every other time a second more."""

    kinds = ("a call",)

    def __init__(self, source: Path) -> None:
        self.times = [1.0, 2.0] if source.name == "old" else [3.0, 4.0]

    def seconds(self, kind: str) -> float:
        self.times.reverse()
        return self.times[0]

    def close(self) -> None:
        self.times.clear()


def test_versions_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "Version", FakeVersion)
    found = against.compare(Path("old"), Path("new"), rounds=3)
    assert found == {"a call": (1.0, 3.0, 2.0)}
