"""Which axes are outputs, said by the user: for weights `(out, in)` in a class of one's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import hyperloom.jax as hl


class OutIn(nnx.Module):
    """A linear layer with its weight as PyTorch has it."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(jax.random.normal(rngs.params(), (6, 3)))
        self.bias = nnx.Param(jnp.zeros(6))

    def __call__(self, x: Any) -> Any:
        return x @ self.weight[...].T + self.bias[...]


def of(**choices: Any) -> hl.HyperNetwork:
    rngs = nnx.Rngs(0)
    return hl.HyperNetwork(OutIn(rngs), condition=hl.Embedding(4, 5), rngs=rngs, **choices)


def test_axes_and_fans() -> None:
    spec = of().plan.spec
    assert (spec["weight"].out_axis, spec["weight"].fan_in) == (1, 6)  # as Flax would have it
    spec = of(axes={"weight": ("out", "in")}).plan.spec
    assert (spec["weight"].out_axis, spec["weight"].in_axis) == (0, 1)
    assert [(t.fan_in, t.fan_out) for t in (spec["weight"], spec["bias"])] == [(3, 6), (3, 6)]


def test_scale_scales_outputs() -> None:
    layout = {"weight": hl.PerCondition()}
    hnet = of(axes={"weight": ("out", "in")}, layout=layout, form=hl.Scale())
    assert hnet.plan.num_generated == 6
    state = nnx.state(hnet, nnx.Param)
    nnx.update(hnet, jax.tree.map(lambda a: a + 0.1 + jnp.arange(a.size).reshape(a.shape), state))
    base = OutIn(nnx.Rngs(0)).weight[...]
    x = jnp.ones((2, 3))
    weight = hnet.generate(1)["weight"]
    ratios = weight / base
    np.testing.assert_allclose(ratios, jnp.broadcast_to(ratios[:, :1], (6, 3)), rtol=1e-4)
    np.testing.assert_allclose(hnet(x, condition=1), x @ weight.T, rtol=1e-4)
