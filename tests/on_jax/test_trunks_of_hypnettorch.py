"""What the core has of trunks and conditions for users of hypnettorch, in JAX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hj
from hyperloom import Deconv, Direct, Ids
from hyperloom._reference import generate as oracle
from hyperloom.jax._io import neutral_tensors


def build(**choices: Any) -> Any:
    return hj.HyperNetwork(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1), **choices)


@pytest.mark.parametrize(
    "choices",
    [
        {"condition": hj.Embedding(3, 4), "trunk": hj.MLP(6, 5, spectral=True)},
        {"condition": hj.Embedding(3, 4), "trunk": hj.MLP(6, activation="identity")},
        {
            "condition": Ids(3),
            "trunk": hj.MLP(6, spectral=True),
            "layout": hj.Chunked(7, 3, per_condition=True),
        },
    ],
    ids=["spectral", "identity", "ids"],
)
def test_against_the_oracle(choices: dict[str, Any]) -> None:
    hnet = build(**choices)
    state = {key: np.asarray(value) for key, value in neutral_tensors(hnet).items()}
    made = hnet.generate(2)
    for key, value in oracle(hnet.plan, state, 2).items():
        np.testing.assert_allclose(np.asarray(made[key]), value, atol=1e-5)


def test_what_this_backend_lacks_is_refused() -> None:
    with pytest.raises(TypeError, match=r"trunk: got Deconv\(.*; wanted a trunk that this"):
        build(condition=hj.Embedding(3, 4), trunk=Deconv((5, 5), (2,)))
    with pytest.raises(TypeError, match=r"layout: got Direct\(\.\.\.\); wanted Given\(\)"):
        build(condition=hj.Embedding(3, 4), trunk=hj.MLP(24, norm=None), layout=Direct(24))
    trunk = hj.MLP(6, norm="batch", per_condition=True)
    with pytest.raises(TypeError, match="a trunk without statistics by id here"):
        build(condition=hj.Embedding(3, 4), trunk=trunk)
