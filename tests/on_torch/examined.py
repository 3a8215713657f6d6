"""A healthy hypernetwork, and what `doctor()` says of it and of others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom._core.reports.readings import Level

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
