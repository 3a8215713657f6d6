"""`hnet.factors()`: low-rank changes as their factors, in JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests._support.on_jax import over, shaken


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.last = nnx.Linear(6, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(jnp.tanh(self.first(x)))


def factored(form: hl.LoRA | hl.LowRank) -> hl.HyperNetwork:
    choices = {"condition": hl.Embedding(5, 4), "layout": {"*.kernel": hl.Full()}, "form": form}
    return shaken(over(Net(nnx.Rngs(0)), seed=1, **choices))


IDS = jnp.array([3, 0, 3, 1])


@pytest.mark.parametrize("form", [hl.LoRA(2, alpha=3.0), hl.LowRank(2)], ids=str)
def test_the_factors_make_the_tensor_and_run(form: hl.LoRA | hl.LowRank) -> None:
    hnet = factored(form)
    factors, tensors = hnet.factors(IDS), hnet.generate(IDS)
    assert factors["first.kernel"].a.shape == (4, 2, 6)
    assert factors["first.kernel"].b.shape == (4, 4, 2)
    for name, (a, b, scaling) in factors.items():
        bases = hnet.generator.numbers()[1]
        change = scaling * np.einsum("bor,bri->bio", b, a)
        np.testing.assert_allclose(bases.get(name, 0) + change, tensors[name], atol=1e-6)
    x = jax.random.normal(jax.random.key(0), (4, 5, 6))
    y = hnet(x, condition=IDS)
    np.testing.assert_allclose(hnet.run(factors, x), y, atol=1e-5)
    np.testing.assert_allclose(hnet.run(hnet.factors(3), x[0]), y[0], atol=1e-5)


def test_sums_and_gradients() -> None:
    hnet = factored(hl.LoRA(2, alpha=3.0))
    factors, weights = hnet.factors(IDS), jnp.array([1.0, 0.5, 0.0, -2.0])
    summed = hl.concatenate(factors, weights)["last.kernel"]
    a, b, _ = factors["last.kernel"]
    np.testing.assert_allclose(summed.b @ summed.a, jnp.tensordot(weights, b @ a, 1), atol=1e-6)
    twice = hl.concatenate([factors, factors], [0.5, 0.5])["last.kernel"]
    np.testing.assert_allclose(twice.b @ twice.a, b @ a, atol=1e-6)
    grads = nnx.grad(lambda h: sum(jnp.abs(f.a).sum() for f in h.factors(IDS).values()))(hnet)
    assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(grads))


def test_forms_without_factors_are_refused() -> None:
    hnet = hl.HyperNetwork(Net(nnx.Rngs(0)), condition=hl.Embedding(5, 4), rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="form: got Whole\\(\\); wanted a form with factors"):
        hnet.factors(IDS)
