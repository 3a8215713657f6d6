"""Readings for loggers: a flat dict of numbers, from the arrays of any backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(
    parameters: Mapping[str, Any], gradients: Mapping[str, Any], generated: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the readings as scalars of the backend; see `protocol.Backend.readings`."""
    read = {f"parameters/{name}": _rms(value) for name, value in parameters.items()}
    read |= {f"gradients/{name}": _rms(value) for name, value in gradients.items()}
    read |= {f"generated/{name}": _rms(value) for name, value in generated.items()}
    apart = {name: value for name, value in generated.items() if len(value) > 1}
    return read | {f"spread/{name}": _rms(v - v.mean(0)) for name, v in apart.items()}


def _rms(value: Any) -> Any:
    return (value * value).mean() ** 0.5
