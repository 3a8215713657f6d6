"""A start for each task from its points, steps from there, and the outer gradient through both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

import hyperloom.jax as hl

WIDTH, FEATURES, RATE = 40, 64, 0.01
Weights = Mapping[str, Array]
"""Of B networks: for each name an array `(B, ...)`."""


def network(rngs: nnx.Rngs) -> nnx.Sequential:
    """Return the learner of the paper on MAML: two hidden layers of 40, which start small."""
    small = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    sizes = (1, WIDTH, WIDTH, 1)
    first, second, last = (
        nnx.Linear(i, o, kernel_init=small, rngs=rngs) for i, o in itertools.pairwise(sizes)
    )
    return nnx.Sequential(first, jax.nn.relu, second, jax.nn.relu, last)


class Points(nnx.Module):
    """A set of points `(B, SHOTS, 2)` as a vector `(B, FEATURES)`: the mean of their features."""

    dim = FEATURES

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(2, FEATURES, rngs=rngs)
        self.second = nnx.Linear(FEATURES, FEATURES, rngs=rngs)

    def __call__(self, points: Array) -> Array:
        """Return the vectors."""
        return self.second(jax.nn.relu(self.first(points))).mean(-2)


class Generated(nnx.Module):
    """A start for each task; how far a step goes is learned too, one number for all."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hnet = hl.HyperNetwork(
            network(rngs), condition=Points(rngs), trunk=hl.MLP(FEATURES), rngs=rngs
        )
        self.rate = nnx.Param(jnp.array(RATE))

    def start(self, support: Array) -> Weights:
        """Return the weights of a network for each set of points."""
        return self.hnet.generate(support)

    def run(self, theta: Weights, x: Array) -> Array:
        """Return the values of all networks at inputs `(B, n, 1)`."""
        return self.hnet.run(theta, x)


def adapted(model: Any, support: Array, steps: int) -> Weights:
    """Return the weights of all tasks after steps of gradient descent on their points.

    Args:
        model: With `start`, `run` and `rate`.
        support: Points `(B, SHOTS, 2)`.
        steps: How many.
    """

    def loss(theta: Weights) -> Array:
        # The sum over tasks: each has the gradient that it would have alone.
        error = model.run(theta, support[..., :1]) - support[..., 1:]
        return jnp.square(error).mean((1, 2)).sum()

    theta = model.start(support)
    for _ in range(steps):
        slopes = jax.grad(loss)(theta)
        theta = jax.tree.map(lambda value, slope: value - model.rate * slope, theta, slopes)
    return theta


def step_of(model: nnx.Module, rate: float, steps: int) -> Callable[[Array, Array, Array], Array]:
    """Return a step of Adam on points `(B, SHOTS, 2)`, and inputs and values to be judged by."""
    rates, labels = hl.param_groups(model, rate)
    rule = optax.multi_transform({name: optax.adam(r) for name, r in rates.items()}, labels)
    optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, support: Array, x: Array, y: Array) -> Array:
        def loss(model: Any) -> Array:
            return jnp.square(model.run(adapted(model, support, steps), x) - y).mean()

        value, slopes = nnx.value_and_grad(loss)(model)
        optimizer.update(model, slopes)
        return value

    return nnx.cached_partial(step, model, optimizer)


@nnx.jit(static_argnums=3)
def values_after(model: Any, support: Array, x: Array, steps: int) -> Array:
    """Return the values of each task's network at `x` after steps of gradient descent."""
    return model.run(adapted(model, support, steps), x)
