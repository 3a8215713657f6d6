"""Linen targets with values that are there already: their modules are traced, not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.core import Tracer

import hyperloom.jax as hl
from tests.on_jax.plain import draws, same

X = jnp.ones((1, 3))


DRAWN: list[Any] = []


def start(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    DRAWN.append(key)
    return jax.random.normal(key, shape, dtype)


class Net(nn.Module):
    """Its initialisers note the keys that they are run with."""

    @nn.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        x = nn.Dense(4, kernel_init=start)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(2, kernel_init=start)(jnp.tanh(x))


def test_given_variables_are_not_drawn_again() -> None:
    module = Net()
    variables = module.init(jax.random.key(3), X)
    DRAWN.clear()
    target = hl.Linen(module, X, variables=variables)
    assert DRAWN, "the layers are still seen"
    assert all(isinstance(key, Tracer) for key in DRAWN)
    spec = hl.target_spec(target)
    assert [(t.name, str(t.role)) for t in spec][:2] == [
        ("BatchNorm_0.bias", "norm shift"),
        ("BatchNorm_0.scale", "norm scale"),
    ]
    layout = {"Dense_1.*": hl.Full()}
    hnet = hl.HyperNetwork(target, condition=hl.Vector(2), layout=layout, rngs=nnx.Rngs(0))
    params = dict(hnet.generate(jnp.ones(2)))
    nested = {"kernel": params["Dense_1.kernel"], "bias": params["Dense_1.bias"]}
    own = {**variables, "params": {**variables["params"], "Dense_1": nested}}
    x = draws(0, 6, 3)
    same(hnet(x, condition=jnp.ones(2), train=False), module.apply(own, x, train=False))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda p: 3, TypeError, 'Linen(variables): got a int; wanted a dict such as {"params"'),
        (
            lambda p: {"params": {**p, "Dense_7": p["Dense_0"]}},
            ValueError,
            "Linen(variables): got 'Dense_7.bias', (4,); wanted no such parameter",
        ),
        (
            lambda p: {"params": {**p, "Dense_0": {"kernel": p["Dense_0"]["kernel"]}}},
            ValueError,
            "Linen(variables): got none for 'Dense_0.bias'; wanted shape (4,), as the module",
        ),
        (
            lambda p: {"params": {**p, "Dense_1": p["Dense_0"]}},
            ValueError,
            "Linen(variables): got 'Dense_1.bias', (4,); wanted shape (2,), as the module",
        ),
    ],
)
def test_variables_of_another_module(change: Any, error: type[Exception], text: str) -> None:
    module = Net()
    params = module.init(jax.random.key(3), X)["params"]
    with pytest.raises(error) as caught:
        hl.Linen(module, X, variables=change(params))
    assert str(caught.value).startswith(text)


class Encoder(nn.Module):
    """A set encoder with running statistics."""

    @nn.compact
    def __call__(self, points: Any, train: bool = False) -> Any:
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(points))
        return nn.Dense(4)(jnp.tanh(x)).mean(-2)


class Trunk(nn.Module):
    @nn.compact
    def __call__(self, rows: Any) -> Any:
        return jnp.tanh(nn.Dense(7)(rows))


def with_linen_parts(train: bool = False, seed: int = 0) -> hl.HyperNetwork:
    return hl.HyperNetwork(
        nnx.Linear(3, 2, rngs=nnx.Rngs(0)),
        condition=hl.Linen(Encoder(), jnp.ones((1, 5, 2)), rng=seed, train=train),
        trunk=hl.Linen(Trunk(), jnp.ones((1, 4)), rng=seed),
        rngs=nnx.Rngs(0),
    )


def test_linen_modules_as_condition_and_trunk(tmp_path: Path) -> None:
    hnet = with_linen_parts()
    trunk: Any = hnet.plan.trunk
    assert (hnet.plan.condition.width, trunk.width) == (4, 7)
    assert "Encoder" in str(hnet)
    assert "Trunk" in str(hnet)
    points, x = draws(0, 3, 5, 2), draws(1, 3, 6, 3)
    net, params = hl.functional(hnet)
    assert "trunks.0.module.params.Dense_0.kernel" in params

    def loss(params: Any) -> Any:
        return jnp.sum(net(params, x, condition=points) ** 2)

    gradients = jax.jit(jax.grad(loss))(params)
    assert all(jnp.abs(gradients[name]).max() > 0 for name in params if "Dense_1" in name)
    y = hnet(x, condition=points)
    same(y, jnp.stack([hnet(x[i], condition=points[i]) for i in range(3)]), 1e-5)
    hl.save(hnet, tmp_path / "hnet.safetensors")
    own = with_linen_parts(seed=1)
    choices: Any = {
        "condition": hl.Linen(Encoder(), jnp.ones((1, 5, 2))),
        "trunk": own.trunks[0].module,
    }
    again = hl.load(tmp_path / "hnet.safetensors", nnx.Linear(3, 2, rngs=nnx.Rngs(1)), **choices)
    same(again(x, condition=points), y)


def test_running_statistics_of_a_linen_condition_are_kept() -> None:
    hnet = with_linen_parts(train=True)

    def state() -> Any:
        return dict(hnet.condition.module.module.state())["batch_stats.BatchNorm_0.mean"]

    before = state()
    hnet(draws(1, 3, 6, 3), condition=draws(0, 3, 5, 2))
    assert jnp.abs(state() - before).max() > 0


def test_a_bare_linen_module_is_named() -> None:
    linear, bare = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), Trunk()
    with pytest.raises(TypeError, match=r"condition: got .*nnx.Module or Linen\(module"):
        hl.HyperNetwork(linear, condition=bare, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"trunk: got .*nnx.Module or Linen\(module"):
        hl.HyperNetwork(linear, condition=hl.Vector(4), trunk=bare, rngs=nnx.Rngs(0))
