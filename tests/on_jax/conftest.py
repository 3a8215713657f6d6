"""Fixtures for the JAX tests."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def double() -> Iterator[None]:
    """Compute in float64."""
    with jax.enable_x64(True):
        yield
