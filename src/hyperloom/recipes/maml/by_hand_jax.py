"""The same generator without hyperloom, and one start for all tasks: MAML as it was published."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from hyperloom.recipes.maml.jax import FEATURES, RATE, WIDTH, Generated, Points, Weights, network

SHAPES = {"b1": (WIDTH,), "w1": (1, WIDTH), "b2": (WIDTH,), "w2": (WIDTH, WIDTH),
          "b3": (1,), "w3": (WIDTH, 1)}  # fmt: skip
CUTS = [40, 80, 120, 1720, 1721]
EPSILON = float(jnp.finfo(jnp.float32).eps)


def run(theta: Weights, x: Array) -> Array:
    """Return the values `(B, n, 1)` of B networks."""
    x = jax.nn.relu(x @ theta["w1"] + theta["b1"][:, None])
    x = jax.nn.relu(x @ theta["w2"] + theta["b2"][:, None])
    return x @ theta["w3"] + theta["b3"][:, None]


class HandGenerated(nnx.Module):
    """`Generated`, written out: encode, generate, cut, shape."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.points = Points(rngs)
        self.trunk = nnx.Linear(FEATURES, FEATURES, rngs=rngs)
        self.head = nnx.Linear(FEATURES, CUTS[-1] + WIDTH, rngs=rngs)
        self.rate = nnx.Param(jnp.array(RATE))
        self.run = run

    def start(self, support: Array) -> Weights:
        """Return the weights of a network for each set of points."""
        features = jax.nn.relu(self.trunk(self.points(support)))
        scale = jax.lax.rsqrt(jnp.square(features).mean(-1, keepdims=True) + EPSILON)
        parts = zip(SHAPES.items(), jnp.split(self.head(features * scale), CUTS, -1), strict=True)
        return {name: part.reshape(-1, *shape) for (name, shape), part in parts}


def copied(theirs: Generated) -> HandGenerated:
    """Return the same by hand, with the numbers of one of hyperloom's."""
    hand: Any = HandGenerated(nnx.Rngs(0))
    hnet: Any = theirs.hnet
    nnx.update(hand.points, nnx.state(hnet.condition.module))
    hand.trunk.kernel[...] = hnet.trunks[0].layers[0].weight[...].T
    hand.trunk.bias[...] = hnet.trunks[0].layers[0].bias[...]
    hand.head.kernel[...] = hnet.heads["full"].weight[...].T
    hand.head.bias[...] = hnet.heads["full"].bias[...]
    return hand


class OneStart(nnx.Module):
    """MAML: the same start for all tasks, and the same learned rate."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        values = jax.tree.leaves(nnx.state(network(rngs), nnx.Param))
        self.values = nnx.Dict({n: nnx.Param(v) for n, v in zip(SHAPES, values, strict=True)})
        self.rate = nnx.Param(jnp.array(RATE))
        self.run = run

    def start(self, support: Array) -> Weights:
        """Return the weights of a network for each set of points."""
        return {
            name: jnp.broadcast_to(value[...], (len(support), *value.shape))
            for name, value in self.values.items()
        }
