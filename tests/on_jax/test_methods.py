"""Any method of the target in a call: NNX, Linen, Equinox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests.on_jax.plain import draws, same

IDS = jnp.array([3, 0, 1])


class Coder(nnx.Module):
    """It has no `__call__`."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.encoder = nnx.Linear(4, 2, rngs=rngs)
        self.decoder = nnx.Linear(2, 4, rngs=rngs)

    def encode(self, x: Any) -> Any:
        return jnp.tanh(self.encoder(x))

    def decode(self, z: Any, *, rngs: Any = None) -> Any:
        y = self.decoder(z)
        return y if rngs is None else y + jax.random.normal(rngs.noise(), y.shape)


class LinenCoder(nn.Module):
    def setup(self) -> None:
        self.encoder = nn.Dense(2)
        self.decoder = nn.Dense(4)

    def encode(self, x: Any) -> Any:
        return jnp.tanh(self.encoder(x))

    def decode(self, z: Any) -> Any:
        return self.decoder(z)

    def __call__(self, x: Any) -> Any:
        return self.decode(self.encode(x))


class EquinoxCoder(eqx.Module):
    encoder: eqx.nn.Linear
    decoder: eqx.nn.Linear

    def __init__(self) -> None:
        one, two = jax.random.split(jax.random.key(0))
        self.encoder = eqx.nn.Linear(4, 2, key=one)
        self.decoder = eqx.nn.Linear(2, 4, key=two)

    def __call__(self, x: Any) -> Any:
        return self.decode(self.encode(x))

    def encode(self, x: Any) -> Any:
        return jnp.tanh(jax.vmap(self.encoder)(x))

    def decode(self, z: Any) -> Any:
        return jax.vmap(self.decoder)(z)


TARGETS: dict[str, Callable[[], Any]] = {
    "nnx": Coder,
    "linen": lambda: hl.Linen(LinenCoder(), jnp.ones((1, 4))),
    "equinox": EquinoxCoder,
}


def hypernetwork(target: Any) -> hl.HyperNetwork:
    return hl.HyperNetwork(target, condition=hl.Embedding(5, 3), rngs=nnx.Rngs(1))


@pytest.mark.parametrize("kind", TARGETS)
def test_a_method_in_a_batch_is_that_of_the_instances(kind: str) -> None:
    hnet = hypernetwork(TARGETS[kind]())
    z = draws(0, 3, 6, 2)
    y = hnet(z, condition=IDS, method="decode")
    same(y, jnp.stack([hnet.instantiate(int(i)).decode(z[k]) for k, i in enumerate(IDS)]), 1e-5)
    same(hnet(z[0], condition=3, method="decode"), y[0], 1e-5)
    same(hnet(z, condition=IDS, method=lambda net, z: net.decode(z) + 1), y + 1, 1e-5)
    same(hnet.run(hnet.generate(IDS), z, method="decode"), y, 1e-5)
    if kind != "equinox":  # there a part takes one example
        same(hnet(z, condition=IDS, method="decoder"), y, 1e-5)
    used = hnet.explain(z, condition=IDS, method="decode").used
    assert {use.tensor.split(".")[0] for use in used} == {"encoder", "decoder"}


def test_what_a_method_does_not_use_is_no_part_of_the_program() -> None:
    net, params = hl.functional(hypernetwork(Coder()))
    z = draws(0, 3, 6, 2)

    def size(method: Any) -> float:
        def loss(params: Any, net: Any) -> Any:
            return net(params, z, condition=IDS, method=method).sum()

        compiled: Any = jax.jit(jax.grad(loss)).lower(params, net).compile()
        return compiled.cost_analysis()["flops"]

    both = size(lambda coder, z: coder.decode(coder.encode(coder.decode(z))))
    assert size("decode") < 0.7 * both


def test_streams_go_to_a_method_that_takes_them() -> None:
    hnet = hypernetwork(Coder())
    z, key = draws(0, 3, 6, 2), jax.random.key(5)
    plain = hnet(z, condition=IDS, method="decode")
    noisy = hnet(z, condition=IDS, method="decode", rngs=key)
    assert jnp.abs(noisy - plain).max() > 0.1
    same(noisy, hnet(z, condition=IDS, method="decode", rngs=key))


WANTED = "the name of a method of Coder, or a function of the module and its inputs."


@pytest.mark.parametrize(
    ("method", "error", "text"),
    [
        ("decod", ValueError, f"method: got 'decod'; wanted {WANTED} Did you mean 'decode'"),
        ("encoder.kernl", ValueError, f"method: got 'encoder.kernl'; wanted {WANTED}"),
        ("encoder.kernel", TypeError, "method: got 'encoder.kernel', which cannot be called; "),
        (3, TypeError, f"method: got 3; wanted {WANTED}"),
        (None, TypeError, f"method: got none; wanted {WANTED} Coder itself cannot be called."),
    ],
)
def test_methods_that_are_none(method: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        hypernetwork(Coder())(draws(0, 2), condition=0, method=method)
    assert str(caught.value).startswith(text)


def test_a_linen_method_that_is_none() -> None:
    hnet = hypernetwork(TARGETS["linen"]())
    with pytest.raises(ValueError, match=r"method: got 'decod'; .* Did you mean 'decode'"):
        hnet(draws(0, 3, 6, 2), condition=IDS, method="decod")
