"""Hypernetworks of JAX over a small target, for the tests of all folders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

import hyperloom.jax as hl


def hypernetwork(make: Callable[[], Any], *, seed: Any = 0, **choices: Any) -> hl.HyperNetwork:
    """Return a hypernetwork at its start; a file binds its usual choices with `partial`.

    Args:
        make: Returns the target.
        seed: Of the hypernetwork's streams; or their key.
        **choices: Of `HyperNetwork`. The condition is by default an embedding of three ids.
    """
    return over(make(), seed=seed, **choices)


def over(target: Any, *, seed: Any = 0, **choices: Any) -> hl.HyperNetwork:
    """Return a hypernetwork over a target that is there; arguments as of `hypernetwork`."""
    choices = {"condition": hl.Embedding(3, 5), "rngs": nnx.Rngs(seed), **choices}
    return hl.HyperNetwork(target, **choices)


def shaken(hnet: hl.HyperNetwork, by: float = 0.1) -> hl.HyperNetwork:
    """Return `hnet` with noise added to every learned array."""
    for _, variable in nnx.iter_graph(hnet):
        if isinstance(variable, nnx.Param):
            value = np.asarray(variable.get_value())
            noise = np.asarray(by * np.random.randn(*value.shape))
            variable.set_value(jnp.asarray(value + noise.astype(value.dtype)))
    return hnet
