"""Where randomness comes from: keys of a call, or the hypernetwork's own streams."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests._support.on_jax import over
from tests.on_jax.plain import draws, same

IDS = jnp.array([0, 2, 1])
X = draws(0, 3, 5, 4)


class Dropped(nnx.Module):
    def __init__(self) -> None:
        self.linear = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(7))

    def __call__(self, x: Any) -> Any:
        return self.dropout(self.linear(x))


make = partial(over, seed=1, condition=hl.Embedding(3, 2))


@functools.cache
def dropped() -> hl.HyperNetwork:
    """Dropout in the target and in the trunk, and a condition that is partly noise."""
    condition = hl.Concat(hl.Embedding(3, 2), hl.Noise(2))
    return make(Dropped(), condition=condition, trunk=hl.MLP(4, dropout=0.5))


def call(key: Any) -> Any:
    return dropped()(X, condition=(IDS, None), rngs=key)


def scanned(key: Any) -> Any:
    return jax.lax.scan(lambda key, _: (key, call(key)), key, length=2)[1][1]


TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "jit": jax.jit(call),
    "vmap": lambda key: jax.vmap(call)(key[None])[0],
    "scan": scanned,
    "grad": lambda key: jax.vjp(lambda s: s * call(key), 1.0)[0],
    "shape": lambda key: jax.tree.map(lambda s: call(key) + 0 * s.size, jax.eval_shape(call, key)),
}


def counts(hnet: hl.HyperNetwork) -> list[int]:
    return [int(v[...]) for _, v in nnx.iter_graph(hnet) if isinstance(v, nnx.RngCount)]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_key_touches_no_stream_of_its_own(name: str) -> None:
    before, key = counts(dropped()), jax.random.key(5)
    same(TRANSFORMS[name](key), call(key))
    assert counts(dropped()) == before
    assert np.any(call(jax.random.key(6)) != call(key))


def test_keys_for_some_streams_leave_the_others_to_go_on() -> None:
    hnet = dropped()
    keys = {"dropout": jax.random.key(0)}
    first, again = (hnet.generate((0, None), rngs=keys)["linear.kernel"] for _ in range(2))
    assert np.any(first != again)  # the noise is drawn from a stream of its own


def test_its_own_streams_cannot_go_on_inside_a_transform() -> None:
    hnet, noisy = make(Dropped()), make(Dropped(), condition=hl.Noise(2))
    text = "rngs: got none, inside a transform .* Pass one to the call: rngs=key"
    with pytest.raises(ValueError, match=text):
        jax.jit(lambda x: hnet(x, condition=IDS))(X)
    with pytest.raises(ValueError, match=text):
        jax.jit(lambda x: noisy(x, condition=3))(X)
    hnet.eval()  # no draws: nothing goes on
    assert jax.jit(lambda x: hnet(x, condition=IDS))(X).shape == X.shape


class Sampled(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        noise = jax.random.normal(self.make_rng("sample"), (4,))
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(4)(x)) + noise


def test_one_key_reaches_all_streams_of_a_linen_target() -> None:
    target = hl.Linen(Sampled(), X[0], rng={"params": 0, "sample": 1, "dropout": 2})
    hnet, key = make(target), jax.random.key(3)
    y = hnet(X[0], condition=0, rngs=key)
    params = {"Dense_0": {n: hnet.generate(0)[f"Dense_0.{n}"] for n in ("kernel", "bias")}}
    same(y, Sampled().apply({"params": params}, X[0], rngs=nnx.Rngs(key)()))
    batch = hnet(X, condition=IDS, rngs=key)
    assert np.any(batch[0] - batch[0, :1] != 0)


def test_how_many_networks_to_draw() -> None:
    hnet, key = make(Dropped(), condition=hl.Noise(2)), jax.random.key(0)
    same(hnet.generate(np.int64(3), rngs=key), hnet.generate(3, rngs=key))
    with pytest.raises(TypeError, match=r"condition: got 3.0; .* or how many to draw"):
        hnet.generate(3.0, rngs=key)
    with pytest.raises(
        ValueError, match="cond_id: got 0; wanted None, as the condition has no ids"
    ):
        hl.conditional_parameters(hnet, 0)
