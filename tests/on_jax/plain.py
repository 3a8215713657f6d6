"""A small target and plain hypernetworks of it, made once; and what several tests compare with."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import hyperloom.jax as hl
from tests._support.on_jax import hypernetwork

Params = dict[str, Array]


@functools.cache
def target() -> nnx.Module:
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), jnp.tanh, nnx.Linear(4, 2, rngs=rngs))


build = functools.partial(hypernetwork, target, condition=hl.Embedding(5, 3), trunk=hl.MLP(6))


@functools.cache  # JAX takes seconds to make one
def plain() -> hl.HyperNetwork:
    return build()


@functools.cache
def of_vectors() -> hl.HyperNetwork:
    return build(condition=hl.Vector(3))


@functools.cache
def generate() -> Any:
    return jax.jit(plain().generate)


def plain_at(condition: Any) -> Params:
    return generate()(jnp.asarray(condition))


def draws(seed: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def same(made: Any, wanted: Any, atol: float = 1e-6) -> None:
    if isinstance(wanted, dict):
        assert set(made) == set(wanted)  # jit sorts the names
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol), made, wanted)
