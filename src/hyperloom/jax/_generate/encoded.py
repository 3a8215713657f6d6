"""What a condition becomes: a vector, and ids and a state where there are any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Encoded:
    """A condition, encoded: a pytree of arrays.

    Attributes:
        vector: `(*batch, E)`.
        ids: `(*batch,)`, or `None` where the condition has no ids.
        carry: What a condition with a state gives back beside the vector.
    """

    vector: Array
    ids: Array | None = None
    carry: Any = None

    @property
    def batch(self) -> tuple[int, ...]:
        """Leading dimensions; `()` for one condition."""
        return self.vector.shape[:-1]

    def take(self, places: np.ndarray) -> Encoded:
        """Return some of the conditions `(B,)`, without their next state."""
        return Encoded(self.vector[places], None if self.ids is None else self.ids[places])


def shown(value: Any) -> str:
    """Return how a value is named in an error."""
    if isinstance(value, (Array, np.ndarray)):
        kind = "NumPy array" if isinstance(value, np.ndarray) else "array"
        return f"a {value.dtype} {kind} of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return repr(value)
