"""A file that an early version wrote, from PyTorch, is read for ever."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx

import hyperloom.jax as hl
from tests.core.kept import CONDITION, PATH, generated


def test_a_file_of_an_early_version() -> None:
    rngs = nnx.Rngs(0)
    target = nnx.Sequential(
        *(nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), jnp.tanh),
        *(nnx.Linear(4, 4, rngs=rngs), jnp.tanh, nnx.Linear(4, 2, rngs=rngs)),
    )
    hnet = hl.load(PATH, target, translate=True)
    made = hnet.generate((CONDITION[0], jnp.asarray(CONDITION[1])))
    for name, numbers in generated().items():
        np.testing.assert_allclose(np.ravel(made[name]), numbers, rtol=1e-4, atol=1e-5)
