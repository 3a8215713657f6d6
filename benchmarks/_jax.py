"""What the JAX cases share: their setting, and numbers on the way to the suite."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

HAS_JAX = importlib.util.find_spec("flax") is not None
HAS_HYPER_NN = importlib.util.find_spec("hypernn") is not None
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def load() -> None:
    """Import JAX with as many threads as the suite was told to use: one, or the machine's."""
    if torch.get_num_threads() == 1:
        os.environ.setdefault("XLA_FLAGS", ONE_THREAD)
    importlib.import_module("jax")


def tensors(named: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return arrays as what the suite compares."""
    return {name: torch.from_numpy(np.asarray(value).copy()) for name, value in named.items()}


def waits(step: Callable[[], Any]) -> Callable[[], Any]:
    """Return the step, done only when its results are there."""
    import jax

    return lambda: jax.block_until_ready(step())


def split_head(hnet: Any) -> list[tuple[str, Any, Any]]:
    """Return name, rows and bias of every tensor in the one head of a `Full()` hypernetwork."""
    import jax.numpy as jnp

    head = hnet.heads["full"]
    rows, sizes = hnet.plan.sections[0]
    ends = np.cumsum(sizes)[:-1]
    weights, biases = (jnp.split(v[...], ends) for v in (head.weight, head.bias))
    names = [hnet.plan.entries[row].tensor for row in rows]
    return list(zip(names, weights, biases, strict=True))


def forward_and_gradients(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return `(learned, c, x, g) -> (y, gradients of learned, gradient of c)`, compiled."""
    import jax

    @jax.jit
    def step(learned: Any, c: Any, x: Any, g: Any) -> Any:
        y, pull = jax.vjp(lambda learned, c: run(learned, c, x), learned, c)
        return y, *pull(g)

    return step


def functional(hnet: Any) -> tuple[Callable[..., Any], Any]:
    """Return a hypernetwork as a pure function `(state, c, x) -> y`, and its state."""
    from flax import nnx

    graphdef, state = nnx.split(hnet)

    def run(state: Any, c: Any, x: Any) -> Any:
        return nnx.merge(graphdef, state)(x, condition=c)

    return run, state
