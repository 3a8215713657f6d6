"""What the core has of trunks and conditions for users of hypnettorch, in JAX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hj
from hyperloom._core.reference.executor import generate as oracle
from hyperloom.jax._tools.checkpoint import neutral_tensors
from tests._support.on_jax import hypernetwork


@pytest.mark.parametrize(
    "choices",
    [
        {"condition": hj.Embedding(3, 4), "trunk": hj.MLP(6, 5, spectral=True)},
        {"condition": hj.Embedding(3, 4), "trunk": hj.MLP(6, activation="identity")},
        {
            "condition": hj.Ids(3),
            "trunk": hj.MLP(6, spectral=True),
            "layout": hj.Chunked(7, 3, per_condition=True),
        },
    ],
    ids=["spectral", "identity", "ids"],
)
def test_against_the_oracle(choices: dict[str, Any]) -> None:
    hnet = hypernetwork(lambda: nnx.Linear(5, 4, rngs=nnx.Rngs(0)), seed=1, **choices)
    state = {key: np.asarray(value) for key, value in neutral_tensors(hnet, with_base=True).items()}
    made = hnet.generate(2)
    for key, value in oracle(hnet.plan, state, 2).items():
        np.testing.assert_allclose(np.asarray(made[key]), value, atol=1e-5)
