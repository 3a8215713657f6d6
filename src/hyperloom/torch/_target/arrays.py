"""What counts as an array."""

from __future__ import annotations

from torch import Tensor

from hyperloom._core.arrays import ArrayKind

TENSOR = ArrayKind((Tensor,), "a tensor")
