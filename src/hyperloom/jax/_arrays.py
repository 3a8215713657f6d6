"""What counts as an array."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import Array


def is_array(value: Any) -> bool:
    """Whether a value is an array, which can pair with conditions."""
    return isinstance(value, (Array, np.ndarray))
