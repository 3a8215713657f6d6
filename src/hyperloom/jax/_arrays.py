"""What counts as an array."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import Array

from hyperloom._core.backend.checks import ArrayKind

ARRAY = ArrayKind((Array, np.ndarray), "an array")


def is_array(value: Any) -> bool:
    """Whether a value is an array, which can pair with conditions."""
    return isinstance(value, ARRAY.types)
