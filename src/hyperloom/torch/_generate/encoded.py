"""What a condition becomes: a vector, and ids, a context and a state where there are any."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyperloom._core.errors import message, shown

NUMPY = (np.ndarray, np.generic)


class Encoded(NamedTuple):
    """A condition, encoded.

    Attributes:
        vector: `(*batch, E)`.
        ids: `(*batch,)`, or `None` where the condition has no ids.
        carry: What a condition with a state gives back beside the vector.
        context: Elements that a trunk over slots attends to, `(*batch, L, D)`, or `None`.
        mask: Which of them are real, `(*batch, L)`, or `None` where all are.
    """

    vector: Tensor
    ids: Tensor | None = None
    carry: Any = None
    context: Tensor | None = None
    mask: Tensor | None = None

    @property
    def batch(self) -> torch.Size:
        """Leading dimensions; `()` for one condition."""
        return self.vector.shape[:-1]

    def each(self, change: Callable[[Tensor], Tensor]) -> Encoded:
        """Return it with every tensor `(*batch, ...)` changed, and without the state."""
        fields = (self.vector, self.ids, None, self.context, self.mask)
        return Encoded(*(None if f is None else change(f) for f in fields))  # type: ignore[arg-type]

    def flat(self) -> Encoded:
        """Return it with one batch dimension."""
        dims, size = len(self.batch), math.prod(self.batch)  # numel() makes constants of symbols
        return self.each(lambda value: value.reshape(size, *value.shape[dims:]))


def floating(value: Any, dim: int, like: Tensor, wanted: str) -> Tensor:
    """Return the raw value of a condition as `like` is, if it is `(*batch, dim)` of floats.

    Raises:
        TypeError: No floating tensor, or one of a wider dtype than the hypernetwork computes in.
        ValueError: Another width, or a tensor without values.
    """
    given = value
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if isinstance(value, np.ndarray) or (number and dim == 1):
        value = _tensor(value, like)
    if not isinstance(value, Tensor):
        raise TypeError(message("condition", shown(given), wanted))
    if value.ndim == 0 and dim == 1:  # a number is a vector of one
        value = value.unsqueeze(0)
    if not value.is_floating_point():
        way_out = "For ids use Embedding(num, dim); otherwise call .float()."
        raise TypeError(message("condition", shown(value), wanted, way_out))
    if value.ndim == 0 or value.shape[-1] != dim:
        raise ValueError(message("condition", shown(value), wanted))
    refuse_meta(value, like.device)
    dtype = like.dtype
    if value.dtype != dtype and torch.promote_types(value.dtype, dtype) != dtype:
        way_out = f"Convert it, condition.to({dtype}), or the hypernetwork, .to({value.dtype})."
        computes = f"{dtype}, in which the hypernetwork computes"
        raise TypeError(message("condition", shown(value), computes, way_out))
    return value.to(like)


def _tensor(value: Any, like: Tensor) -> Any:
    """Return numbers as a tensor in the dtype of `like`, or `None` for what makes none.

    Nobody has chosen the dtype of Python's floats, nor the float64 of NumPy's.
    """
    ints = isinstance(value, NUMPY) and value.dtype.kind != "f"
    try:
        return torch.as_tensor(value, dtype=None if ints else like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError):  # strings, ragged lists, objects
        return None


def refuse_meta(value: Tensor, device: torch.device, argument: str = "condition") -> None:
    """Raise for a tensor that holds no numbers, unless the hypernetwork holds none either."""
    if value.is_meta and device.type != "meta":
        got = f"{shown(value)} on the meta device, which has no values"
        raise ValueError(message(argument, got, f"a tensor on {device}, as the hypernetwork"))
