"""What counts as an array."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hyperloom._core.arrays import ArrayKind

P = ParamSpec("P")
R = TypeVar("R")

ARRAY = ArrayKind((Array, np.ndarray), "an array")


def ranks_promoted(function: Callable[P, R]) -> Callable[P, R]:
    """Let arithmetic of our own add arrays of other ranks, where a user has forbidden that."""

    @functools.wraps(function)
    def promoted(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return promoted


_SYMBOL = 64


def estimated(size: Any) -> int:
    """Return a size for estimates of cost: of a symbol (`jax.export`) nothing is known."""
    return size if isinstance(size, int) else _SYMBOL


def is_array(value: Any) -> bool:
    """Whether a value is an array, which can pair with conditions."""
    return isinstance(value, ARRAY.types)


def is_key(value: Any) -> bool:
    """Whether a value is a key, of the new kind or of the old: two or four unsigned ints."""
    if not isinstance(value, Array):
        return False
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return True
    return value.dtype == jnp.uint32 and value.ndim == 1
