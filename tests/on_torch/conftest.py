"""Fixtures for the PyTorch tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hyperloom.torch import _program, _run, _structured


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that takes the cost model's place: every layer goes one way."""

    def every_layer_goes(way: str) -> None:
        monkeypatch.setattr(_structured, "choose", lambda *_: way)
        monkeypatch.setattr(_program, "choose", lambda *_: way)
        monkeypatch.setattr(_run, "some_contract", lambda *_, **__: True)

    return every_layer_goes
