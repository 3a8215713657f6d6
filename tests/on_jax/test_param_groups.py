"""`param_groups`: rates for optax."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests._support.on_jax import hypernetwork


def target() -> nnx.Linear:
    return nnx.Linear(3, 2, rngs=nnx.Rngs(0))


build = partial(hypernetwork, target, seed=1, condition=hl.Embedding(4, 6))


def test_multi_transform_moves_every_array_by_its_rate() -> None:
    hnet = build(trunk=hl.MLP(8, 16))
    _, params = hl.functional(hnet)
    rates, labels = hl.param_groups(hnet, 0.01)
    steps = {name: optax.sgd(rate) for name, rate in rates.items()}
    optimizer = optax.multi_transform(steps, labels)
    ones = jax.tree.map(jnp.ones_like, params)
    updates: Any
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    assert rates == {"lr": 0.01, "lr/8": 0.01 / 8, "lr/16": 0.01 / 16}
    for name, update in updates.items():
        wide = {"heads.full.weight": 16, "trunks.0.layers.1.weight": 8}.get(name, 1)
        np.testing.assert_allclose(update, -0.01 / wide, rtol=1e-6)


def test_the_optimizer_of_nnx_takes_them_for_a_module_with_one_inside() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.hnet = build(trunk=hl.MLP(8))
            self.last = nnx.Linear(2, 2, rngs=nnx.Rngs(2))

    model = Model()
    before = nnx.state(nnx.clone(model), nnx.Param)
    rates, labels = hl.param_groups(model, 0.01)
    steps = {name: optax.sgd(rate) for name, rate in rates.items()}
    optimizer = nnx.Optimizer(model, optax.multi_transform(steps, labels), wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.ones_like, before))
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    for (path, after), (_, old) in zip(flat, nnx.to_flat_state(before), strict=True):
        wide = 8 if ".".join(map(str, path)) == "hnet.heads.full.weight" else 1
        np.testing.assert_allclose(old[...] - after[...], 0.01 / wide, rtol=1e-3)


def test_a_schedule_is_divided() -> None:
    rates, _ = hl.param_groups(build(), optax.linear_schedule(1.0, 0.0, 10))
    schedule: Any = rates["lr/6"]
    assert float(schedule(5)) == pytest.approx(0.5 / 6)


def test_a_tree_of_other_names_is_refused() -> None:
    _, labels = hl.param_groups(build(), 0.1)
    _, params = hl.functional(build())
    with pytest.raises(ValueError, match=r"^params: got .*'inner\.condition"):
        labels({"inner": params})


@pytest.mark.parametrize("lr", [None, "0.1", True, -0.1, float("nan")])
def test_a_rate_that_is_none_is_refused(lr: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^lr: got"):
        hl.param_groups(build(), lr)


def test_what_is_no_module_is_refused() -> None:
    given: Any = {"a": 1}
    with pytest.raises(TypeError, match=r"^module: got"):
        hl.param_groups(given, 0.1)
