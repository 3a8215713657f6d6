"""What a condition becomes: a vector, and ids, a context and a state where there are any."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
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
        context: Elements that a trunk over slots attends to, `(*batch, L, D)`, or `None`.
        mask: Which of them are real, `(*batch, L)`, or `None` where all are.
    """

    vector: Array
    ids: Array | None = None
    carry: Any = None
    context: Array | None = None
    mask: Array | None = None

    @property
    def batch(self) -> tuple[int, ...]:
        """Leading dimensions; `()` for one condition."""
        return self.vector.shape[:-1]

    def take(self, places: np.ndarray) -> Encoded:
        """Return some of the conditions `(B,)`, without their next state."""
        return self.each(lambda value: value[places])

    def each(self, change: Callable[[Array], Array]) -> Encoded:
        """Return it with every array `(*batch, ...)` changed, and without the state."""
        return jax.tree.map(change, replace(self, carry=None))

    def flat(self) -> Encoded:
        """Return it with one batch dimension, and without the state."""
        dims, size = len(self.batch), math.prod(self.batch)
        return self.each(lambda value: value.reshape(size, *value.shape[dims:]))


def shown(value: Any) -> str:
    """Return how a value is named in an error."""
    if isinstance(value, (Array, np.ndarray)):
        kind = "NumPy array" if isinstance(value, np.ndarray) else "array"
        return f"a {value.dtype} {kind} of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return repr(value)
