"""How heads start in JAX. The rules are the core's; tests/on_torch measures them all."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest
from flax import nnx

import hyperloom.jax as hl


@pytest.mark.parametrize(
    "condition", [hl.Vector(1, std=3.0), hl.CosSin(1), hl.Noise(2, std=0.5)], ids=repr
)
def test_a_head_on_a_vector_has_exactly_the_variance_that_was_said(condition: Any) -> None:
    """The draws that features are measured on have the said mean square, not one near it."""
    hnet = hl.HyperNetwork(
        nnx.Linear(200, 200, rngs=nnx.Rngs(0)),
        condition=condition,
        init=hl.Unscaled(2.0),
        rngs=nnx.Rngs(0),
    )
    head = next(
        value[...]
        for path, value in nnx.to_flat_state(nnx.state(hnet, nnx.Param))
        if path[-1] == "weight" and "full" in path
    )
    bound = 3**0.5 * 2.0 / (head.shape[1] ** 0.5 * condition.std)
    assert float(jnp.abs(head).max()) == pytest.approx(bound, rel=1e-3)
