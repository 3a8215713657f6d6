"""Trunks that get all slots at once, and conditions that are sets, in JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import hyperloom.jax as hl
from tests._support.compare import close
from tests._support.on_jax import hypernetwork
from tests.on_jax.cases import mlp

NUM = 3


class Slots(nnx.Module):
    """A trunk of the user's own over slots: each is told the mean of all, and of the context."""

    over_slots = True

    def __init__(self, width: int, dim: int, context: int, rngs: nnx.Rngs) -> None:
        self.dim = dim
        self.each, self.all = nnx.Linear(width, dim, rngs=rngs), nnx.Linear(width, dim, rngs=rngs)
        self.other = nnx.Linear(context, dim, rngs=rngs)

    def __call__(self, tokens: Array, context: Array, mask: Array | None) -> Array:
        mixed = self.each(tokens) + self.all(tokens.mean(-2, keepdims=True))
        return jnp.tanh(mixed + self.other(context).mean(-2, keepdims=True))


class Encoder(nnx.Module):
    """A condition module that returns a context alone, with a mask."""

    context_dim = 4

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.map = nnx.Linear(3, 4, rngs=rngs)

    def __call__(self, value: Array) -> Any:
        return None, self.map(value), jnp.broadcast_to(jnp.arange(5) < 4, value.shape[:-1])


def made(**choices: Any) -> hl.HyperNetwork:
    usual: dict[str, Any] = {
        "condition": hl.Concat(hl.Vector(2), hl.Context(3)),
        "trunk": hl.Transformer(8, 1, 2),
        "layout": hl.Chunked(9, embedding=4),
    }
    return hypernetwork(mlp, **{**usual, **choices})


def values() -> Any:
    draws = np.random.RandomState(0)
    mask = np.arange(5) < np.arange(2, 2 + NUM)[:, None]
    elements = draws.standard_normal((NUM, 5, 3)).astype(np.float32)
    return jnp.asarray(draws.standard_normal((NUM, 2))), (jnp.asarray(elements), jnp.asarray(mask))


X = jnp.asarray(np.random.RandomState(1).standard_normal((NUM, 7, 4)), jnp.float32)


def test_a_batch_is_what_each_condition_gives_alone() -> None:
    hnet, conditions = made(), values()
    y, run = hnet(X, condition=conditions), nnx.jit(lambda hnet, x, c: hnet(x, condition=c))
    for i in range(NUM):
        close(run(hnet, X[i], jax.tree.map(lambda a, i=i: a[i], conditions)), y[i], 1e-5)
    rows = np.array([2, 0, 0, 1])
    close(hnet(X[:, 0][rows], condition=conditions, rows=rows), y[:, 0][rows], 1e-5)
    vector, (elements, mask) = conditions
    hidden = jnp.where(mask[..., None], elements, jnp.nan)
    close(hnet(X, condition=(vector, (hidden, mask))), y, 0.0)
    grads = jax.grad(lambda e: hnet(X, condition=(vector, (e, mask))).sum())(hidden)
    assert bool(jnp.isfinite(grads).all())
    assert not bool(jnp.where(mask[..., None], 0, grads).any())


def test_modules_of_the_users_own(tmp_path: Path) -> None:
    hnet = made(
        condition=Encoder(nnx.Rngs(0)), trunk=Slots(4, 8, 4, nnx.Rngs(1)), layout=hl.Grouped(4)
    )
    elements = values()[1][0]
    generated = hnet.generate(elements)
    for name, tensor in hnet.generate(elements[1]).items():
        close(tensor, generated[name][1], 1e-5)
    hl.save(hnet, tmp_path / "a")
    parts: dict[str, Any] = {
        "condition": Encoder(nnx.Rngs(2)),
        "trunk": Slots(4, 8, 4, nnx.Rngs(3)),
    }
    again = hl.load(tmp_path / "a", mlp(), **parts)
    close(again.generate(elements), generated, 0.0)
    leaves = jax.tree.leaves(nnx.state(hnet, nnx.Param))
    assert hnet.plan.num_parameters == sum(leaf.size for leaf in leaves)


def test_the_start_is_native_and_doctor_sees_the_context() -> None:
    hnet = made(trunk=hl.Transformer(16, 1, 2))
    report = hnet.doctor(X, condition=values())
    assert not report.findings
    for layer in report.readings.layers:
        assert 0.5 < layer.activation / layer.native_activation < 2.0, layer
        assert 0.5 < layer.gradient / layer.native_gradient < 2.0, layer


WRONG: list[tuple[Any, type[Exception], str]] = [
    (
        jnp.ones(3),
        ValueError,
        "condition: got a float32 array of shape (3,); wanted a floating arr",
    ),
    (
        (jnp.ones((2, 3)), jnp.ones(2)),
        TypeError,
        "condition: got the mask a float32 array of shape",
    ),
    (
        (jnp.ones((2, 3)), jnp.ones(3, bool)),
        ValueError,
        "condition: got a mask of shape (3,); wanted a bool mask of shape (2,), true where an elem",
    ),
    (jnp.ones((2, 3), int), TypeError, "condition: got a int32 array of shape (2, 3); wanted a f"),
]


def test_wrong_values_are_named() -> None:
    hnet = made(condition=hl.Context(3))
    for value, kind, text in WRONG:
        with pytest.raises(kind) as error:
            hnet.generate(value)
        assert str(error.value).startswith(text)
    with pytest.raises(ValueError, match=r"trunk: got MLP\(8\) with the condition Concat\(Vector"):
        made(trunk=hl.MLP(8))
