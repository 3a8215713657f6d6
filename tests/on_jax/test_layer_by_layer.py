"""Networks that are generated stage by stage from a support set, in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import hyperloom.jax as hl
from tests._support.compare import close


class Extract(nnx.Module):
    """Tokens of a stage: a map of its own of the activations, and the labels' embeddings."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.last = nnx.Linear(5, 4, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)
        self.labels = nnx.Embed(3, 4, rngs=rngs)

    def __call__(self, name: str, activations: Array, inputs: Array, labels: Array) -> Array:
        return jnp.concatenate([getattr(self, name)(activations), self.labels(labels)], -1)


def made() -> hl.LayerByLayer:
    rngs = nnx.Rngs(0)

    def stage(*layers: Any) -> hl.HyperNetwork:
        return hl.HyperNetwork(
            nnx.Sequential(*layers),
            condition=hl.Context(8),
            trunk=hl.Transformer(8, 1, 2),
            layout=hl.Chunked(12, 4),
            rngs=rngs,
        )

    stages = {
        "first": stage(nnx.Linear(5, 6, rngs=rngs), nnx.relu),
        "last": stage(nnx.Linear(6, 3, rngs=rngs)),
    }
    return hl.LayerByLayer(stages, Extract(rngs))


DRAWS = np.random.RandomState(0)
SUPPORT = (
    jnp.asarray(DRAWS.standard_normal((2, 7, 5)), jnp.float32),
    jnp.asarray(np.arange(14).reshape(2, 7) % 3),
)
QUERIES = jnp.asarray(DRAWS.standard_normal((2, 9, 5)), jnp.float32)


def test_each_stage_sees_what_those_before_it_make_of_the_support() -> None:
    whole = made()
    run = nnx.jit(lambda whole, x, support: whole(x, condition=support))
    y = run(whole, QUERIES, SUPPORT)
    generated = nnx.jit(lambda whole, support: whole.generate(support))(whole, SUPPORT)
    assert set(generated) == {f"{s}.layers.0.{t}" for s in ("first", "last") for t in WANTED}
    x, queries = SUPPORT[0], QUERIES
    of_stage = nnx.jit(
        lambda whole, name, x: whole.stages[name].generate(whole.extract(name, x, *SUPPORT)),
        static_argnums=1,
    )
    for name in ("first", "last"):
        weights = of_stage(whole, name, x)
        kernel, bias = weights["layers.0.kernel"], weights["layers.0.bias"][:, None]
        close(kernel, generated[f"{name}.layers.0.kernel"], 1e-5)
        x, queries = (v @ kernel + bias for v in (x, queries))
        if name == "first":
            x, queries = nnx.relu(x), nnx.relu(queries)
    close(queries, y, 1e-5)
    net = whole.bind(SUPPORT)
    close(jax.jit(lambda net, x: net(x))(net, QUERIES), y, 1e-5)
    close(run(whole, QUERIES[1], (SUPPORT[0][1], SUPPORT[1][1])), y[1], 1e-5)
    grads = nnx.jit(nnx.grad(lambda whole: (whole(QUERIES, condition=SUPPORT) ** 2).sum()))(whole)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))
    assert bool(jnp.any(grads["extract"]["last"]["kernel"].get_value() != 0))


WANTED = ("kernel", "bias")


def test_wrong_values_are_named() -> None:
    with pytest.raises(ValueError, match=r"^stages: got none; wanted at least one hypernetwork"):
        hl.LayerByLayer({}, print)
    with pytest.raises(TypeError, match=r"^extract: got 3; wanted a function \(name, activ"):
        hl.LayerByLayer(dict(made().stages), 3)  # type: ignore[arg-type]
