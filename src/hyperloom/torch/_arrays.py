"""What counts as an array."""

from __future__ import annotations

from torch import Tensor

from hyperloom._core.backend.checks import ArrayKind

TENSOR = ArrayKind((Tensor,), "a tensor")
