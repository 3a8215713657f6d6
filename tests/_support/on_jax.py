"""Hypernetworks of JAX over a small target, for the tests of all folders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx

import hyperloom.jax as hl


def hypernetwork(make: Callable[[], Any], *, seed: int = 0, **choices: Any) -> hl.HyperNetwork:
    """Return a hypernetwork at its start; a file binds its usual choices with `partial`.

    Args:
        make: Returns the target.
        seed: Of the hypernetwork's streams.
        **choices: Of `HyperNetwork`. The condition is by default an embedding of three ids.
    """
    choices = {"condition": hl.Embedding(3, 5), **choices}
    return hl.HyperNetwork(make(), rngs=nnx.Rngs(seed), **choices)
