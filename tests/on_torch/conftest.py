"""Fixtures for the PyTorch tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hyperloom.torch._run import chain, route
from hyperloom.torch._weights import weights


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that takes the cost model's place: every layer goes one way."""

    def every_layer_goes(way: str) -> None:
        monkeypatch.setattr(weights, "choose", lambda *_: way)
        monkeypatch.setattr(chain, "choose", lambda *_: way)
        monkeypatch.setattr(route, "contracts", lambda *_, **__: True)

    return every_layer_goes
