"""`functional`: what is not learned is a tree, and so an argument of what is jitted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

import hyperloom.jax as hl
from tests.on_jax.plain import draws, plain, same, target

IDS = jnp.array([3, 0, 1])


def test_no_array_is_a_constant_of_the_program() -> None:
    hnet = hl.HyperNetwork(
        target(),
        condition=hl.Embedding(5, 3),
        layout={"layers.0.kernel": hl.Full()},
        form=hl.LoRA(2),
        rngs=nnx.Rngs(0),
    )
    net, params = hl.functional(hnet)
    held = [leaf.shape for leaf in jax.tree.leaves(net)]
    assert (3, 4) in held, "the base of layers.0.kernel"
    assert (4, 2) in held, "layers.2.kernel, which is kept"
    x = draws(0, 3, 6, 3)

    def loss(params, net):
        return jnp.mean(net(params, x, condition=IDS) ** 2)

    traced = jax.make_jaxpr(jax.grad(loss))(params, net)
    sizes = {const.shape for const in traced.consts} - {x.shape, IDS.shape}
    assert all(shape == () for shape in sizes), sizes
    closed = jax.make_jaxpr(jax.grad(lambda params: loss(params, net)))(params)
    assert (4, 2) in {const.shape for const in closed.consts}, "the check can fail"
    same(jax.jit(loss)(params, net), jnp.mean(hnet(x, condition=IDS) ** 2))


def test_a_tree_that_transforms_take() -> None:
    net, params = hl.functional(plain())
    again = jax.tree.map(lambda leaf: leaf, net)
    assert isinstance(again, hl.Functional)
    assert again.plan == plain().plan
    assert jax.tree.structure(again) == jax.tree.structure(net)
    x = draws(1, 6, 3)
    wanted = plain()(x, condition=2)

    def step(carry, x):
        net, params = carry
        return carry, net(params, x, condition=2)

    (_, _), made = jax.lax.scan(step, (net, params), jnp.stack([x, x]))
    same(made, jnp.stack([wanted, wanted]))
    several = jax.vmap(lambda net, x: net(params, x, condition=2), in_axes=(None, 0))
    same(several(net, jnp.stack([x, x])), made)
    assert repr(net) == f"Functional(Sequential, {len(params)} parameters)"
