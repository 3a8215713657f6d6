"""`doctor()` in JAX compares the batch with the loop, and with a second call."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import hyperloom.jax as hl
from tests.on_jax.plain import draws

X = draws(0, 3, 8, 3)
VECTORS = draws(1, 3, 2)


def over(target: nnx.Module) -> hl.HyperNetwork:
    return hl.HyperNetwork(target, condition=hl.Vector(2), rngs=nnx.Rngs(0))


class Dropping(nnx.Module):
    """Random draws are the same in all runs, so nothing is found."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.layer, self.dropout = nnx.Linear(3, 4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.dropout(jnp.tanh(self.layer(x)))


def test_dropout_agrees_with_itself() -> None:
    assert not over(Dropping()).doctor(X, condition=VECTORS).about("agreement")


@jax.custom_batching.custom_vmap
def doubled(x: Any) -> Any:
    return 2 * x


@doubled.def_vmap
def _wrong(size: int, batched: Any, x: Any) -> Any:
    return 3 * x, batched[0]


twice = jax.custom_vjp(doubled)
twice.defvjp(lambda x: (doubled(x), None), lambda _, gradient: (doubled(gradient),))


class Wrong(nnx.Module):
    """Its function has a batching rule that is wrong."""

    def __init__(self) -> None:
        self.layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return twice(self.layer(x))


def test_a_batch_that_differs_from_its_loop_is_a_fault() -> None:
    report = over(Wrong()).doctor(X, condition=VECTORS)
    found = report.about("agreement")
    texts = [f.text for f in found]
    assert texts == [
        "the outputs differ from those of one condition after the other, by 0.5 of their size: "
        "that is more than rounding.",
        "the gradients differ from those of one condition after the other, by 0.5 of their size: "
        "that is more than rounding.",
    ], report
    assert {f.level for f in found} == {"fault"}
    assert found[1].where


class Counting(nnx.Module):
    """It counts its calls in a list that copies share."""

    def __init__(self, calls: list[int]) -> None:
        self.layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        self.count = lambda: calls.append(1) or len(calls)

    def __call__(self, x: Any) -> Any:
        return self.count() * self.layer(x)


def test_a_second_call_that_differs_is_a_fault() -> None:
    report = over(Counting([])).doctor(X, condition=VECTORS)
    texts = [f.text for f in report.about("agreement")]
    assert any(t.startswith("the outputs differ from those of a second call") for t in texts)


def test_one_condition_and_rows() -> None:
    hnet = over(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    assert not hnet.doctor(X[0], condition=VECTORS[0]).about("agreement")
    rows = np.array([0, 2, 0, 1])
    assert not hnet.doctor(draws(2, 4, 3), condition=VECTORS, rows=rows).about("agreement")
