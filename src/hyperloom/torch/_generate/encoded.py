"""What a condition becomes: a vector, and ids and a state where there are any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Encoded:
    """A condition, encoded.

    Attributes:
        vector: `(*batch, E)`.
        ids: `(*batch,)`, or `None` where the condition has no ids.
        carry: What a condition with a state gives back beside the vector.
    """

    vector: Tensor
    ids: Tensor | None = None
    carry: Any = None

    @property
    def batch(self) -> torch.Size:
        """Leading dimensions; `()` for one condition."""
        return self.vector.shape[:-1]


def shown(value: Any) -> str:
    """Return how a value is named in an error."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return repr(value)
