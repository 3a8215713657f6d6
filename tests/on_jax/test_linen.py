"""Linen targets with values that are there already: their modules are traced, not run."""

from __future__ import annotations

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
