"""`bind`: a network in the hand, which is a tree."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests.on_jax.plain import build, draws, plain, same
from tests.on_jax.test_methods import TARGETS, hypernetwork

IDS = jnp.array([3, 0, 1])


@pytest.mark.parametrize("condition", [2, [3, 0, 1], [[3, 0], [1, 1]]], ids=str)
def test_a_call_of_it_is_a_call_of_the_hypernetwork(condition: Any) -> None:
    hnet = plain()
    x = draws(0, *jnp.shape(jnp.asarray(condition)), 6, 3)
    net = hnet.bind(condition)
    wanted = hnet(x, condition=condition)
    same(net(x), wanted, 1e-5)
    same(jax.jit(lambda net, x: net(x))(net, x), wanted, 1e-5)
    same(net(x[..., 0, :], in_axes=0), hnet(x[..., 0, :], condition=condition), 1e-5)
    same(net.layers[0].kernel, hnet.generate(condition)["layers.0.kernel"])


@pytest.mark.parametrize("kind", TARGETS)
def test_methods_parts_and_attributes_read_through(kind: str) -> None:
    hnet = hypernetwork(TARGETS[kind]())
    net, x = hnet.bind(IDS), draws(0, 3, 6, 4)
    z = net.encode(x)
    same(z, hnet(x, condition=IDS, method="encode"), 1e-5)
    same(net.decode(z), hnet(z, condition=IDS, method="decode"), 1e-5)
    name = "weight" if kind == "equinox" else "kernel"
    same(getattr(net.encoder, name), hnet.generate(IDS)[f"encoder.{name}"])
    if kind != "equinox":  # there a part takes one example
        same(net.decoder(z), net.decode(z), 1e-5)
    if kind != "linen":  # which shows the attributes of its parts in a call only
        assert net.encoder.out_features == 2
    assert not hasattr(net, "nothing")
    with pytest.raises(AttributeError, match=r"net: got the name 'decod'; wanted .* 'decode'"):
        _ = net.decod
    with pytest.raises(AttributeError, match="net: got an attribute 'encode' to set; wanted"):
        net.encode = 3


def test_gradients_of_all_calls_reach_the_generator() -> None:
    net, params = hl.functional(hypernetwork(TARGETS["nnx"]()))
    x = draws(0, 3, 6, 4)

    def bound(params: Any) -> Any:
        own = net.bind(params, IDS)
        return jnp.sum(own.decode(own.encode(x)) ** 2) + own.encode(x).sum()

    def called(params: Any) -> Any:
        z = net(params, x, condition=IDS, method="encode")
        return jnp.sum(net(params, z, condition=IDS, method="decode") ** 2) + z.sum()

    one, two = (jax.jit(jax.grad(f))(params) for f in (bound, called))
    same(one, two, 1e-4)
    assert all(jnp.abs(g).max() > 0 for g in one.values())


def test_a_scan_and_vmap_take_it() -> None:
    hnet = plain()
    xs = draws(0, 4, 3, 6, 3)

    def step(net: Any, x: Any) -> Any:
        return net, net(x)

    _, ys = jax.lax.scan(step, hnet.bind(IDS), xs)
    same(ys, jnp.stack([hnet(x, condition=IDS) for x in xs]), 1e-5)
    each = jax.vmap(lambda i, x: hnet.bind(i)(x))(IDS, xs[0])
    same(each, ys[0], 1e-5)
    over_inputs = jax.vmap(hnet.bind(2))(xs[:, 0])
    same(over_inputs, jnp.stack([hnet(x[0], condition=2) for x in xs]), 1e-5)


def test_other_conditions_compile_nothing_again() -> None:
    hnet, x, traced = plain(), draws(0, 3, 6, 3), []

    @jax.jit
    def act(net: Any, x: Any) -> Any:
        traced.append(None)
        return net(x)

    for ids in ([3, 0, 1], [1, 1, 2]):
        same(act(hnet.bind(ids), x), hnet(x, condition=ids), 1e-5)
    assert len(traced) == 1


def test_parts_are_kept_and_nothing_is_formed() -> None:
    wide = nnx.Linear(32, 32, use_bias=False, rngs=nnx.Rngs(0))
    condition = hl.Vector(3)
    hnet = hl.HyperNetwork(wide, condition=condition, form=hl.LoRA(1), rngs=nnx.Rngs(0))
    net = hnet.bind(draws(0, 100, 3))
    assert all(leaf.size < 100 * 32 * 32 for leaf in jax.tree.leaves(net))
    same(net(draws(1, 100, 1, 32)), hnet(draws(1, 100, 1, 32), condition=draws(0, 100, 3)), 1e-5)


def test_state_streams_and_noise() -> None:
    target = nnx.Sequential(
        nnx.BatchNorm(3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(dropout=0))
    )
    hnet = hl.HyperNetwork(target, condition=hl.Noise(2), rngs=nnx.Rngs(0))
    net, x, key = hnet.bind(3, rngs=jax.random.key(1)), draws(0, 3, 6, 3), jax.random.key(2)
    y, state = net(x, rngs=key, mutable=True)
    assert y.shape == x.shape
    assert state["layers.0.mean"].shape == (3, 3)
    same(net(x, rngs=key, mutable=True)[0], y)
    again = net(x, rngs=jax.random.key(3), state=state, mutable=True)[0]
    assert jnp.abs(again - y).max() > 0.1


def test_with_chunks_and_a_shared_tensor() -> None:
    hnet = build(layout={"layers.0.*": hl.Chunked(8, 3), "*.bias": hl.Shared(), "*": hl.Full()})
    net, x = hnet.bind(IDS), draws(0, 3, 6, 3)
    same(net(x), hnet(x, condition=IDS), 1e-5)
    same(net.layers[2].bias, hnet.generate(0)["layers.2.bias"])
    assert repr(net) == "Bound(conditions (3,): Sequential)"
    assert "__call__" in dir(net)


def test_a_condition_encoded() -> None:
    hnet = plain()
    found = hnet.encode([3, 0])
    same(found.vector, hnet.condition.table.rows()[jnp.array([3, 0])])
    assert found.ids is not None
    assert found.ids.tolist() == [3, 0]
    drawn = build(condition=hl.Noise(2)).encode(5, rngs=jax.random.key(0))
    assert (drawn.vector.shape, drawn.ids) == ((5, 2), None)
