"""hyper-nn's helpers for PyTorch."""

from __future__ import annotations

from typing import Any

from torch import nn

import hyperloom.torch as hl
from hyperloom.compat.hypernn._door.inputs import get_weight_chunk_dims
from hyperloom.compat.hypernn.torch.hypernet import FunctionalTarget as FunctionalParamVectorWrapper

__all__ = ["FunctionalParamVectorWrapper", "count_params", "get_weight_chunk_dims"]


def count_params(module: nn.Module, input_shape: Any = None, inputs: Any = None) -> int:
    """Return how many parameters a module has, tied ones once; the inputs are not needed."""
    return hl.target_spec(module).num_parameters
