"""The device's class and what a choice is recorded as."""

from __future__ import annotations

from collections.abc import Callable

import jax

from hyperloom._core.plan.cost import Layer

Record = Callable[[str, str, str, Layer | None], None]


def device_class() -> str:
    """Return the cost model's name for the device that JAX runs on."""
    return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
