"""The output regulariser on JAX without outputs: the same penalty and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests._support.on_jax import over, shaken
from tests.on_jax.cases import mlp

WEIGHTS = {"*.bias": 0.3, "layers.4.*": 2.0}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "full": (hl.Full(), {}),
    "chunked": (hl.Chunked(9), {"weights": WEIGHTS}),
    "per condition": (hl.Chunked(9, 3, per_condition=True), {"subset": 2}),
    "tiles": (hl.Grouped(unit=hl.Tiles(4)), {"subset": 2, "weights": WEIGHTS}),
    "mix": (
        {"layers.0.*": hl.Chunked(7), "layers.2.*": hl.PerCondition(), "layers.4.*": hl.Full()},
        {"weights": WEIGHTS},
    ),
}


def over_mlp(layout: Any = None, dtype: Any = jnp.float64, **choices: Any) -> hl.HyperNetwork:
    choices = {"condition": hl.Embedding(5, 8), "trunk": hl.MLP(4), **choices}
    return over(mlp(dtype), layout=layout, **choices)


@nnx.jit
def penalty(hnet: Any, reg: Any) -> Any:
    """Return the penalty with its gradients."""
    value = lambda hnet: reg(hnet, rngs=jax.random.key(0))  # noqa: E731
    return nnx.value_and_grad(value)(hnet)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in ("full", "tiles") else n for n in CASES],
)
def test_gram_equals_outputs(name: str, take: Callable[..., None]) -> None:
    layout, options = CASES[name]
    hnet = over_mlp(layout)
    regs = [hl.OutputRegularizer(0.7, **options) for _ in range(2)]
    for reg, gram in zip(regs, (True, False), strict=True):
        take("gram" if gram else "outputs", "penalties")
        reg.remember(hnet, range(4))
        assert bool(reg.heads) is gram
    shaken(hnet)
    by_gram, by_outputs = (jax.tree.leaves(penalty(hnet, reg)) for reg in regs)
    assert by_gram[0] > 0.01
    for mine, other in zip(by_gram, by_outputs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-11)


def test_no_change_is_exactly_zero_and_a_known_one_is_right() -> None:
    hnet = over_mlp(hl.Chunked(40, embedding=2), jnp.float32, trunk=hl.MLP(2))
    reg = hl.OutputRegularizer(1.0)
    reg.remember(hnet, range(4))
    assert list(reg.heads) == ["chunked"]  # cheaper here, by the estimate
    assert not reg.targets
    assert penalty(hnet, reg)[0] == 0
    hnet.heads["chunked"].bias[...] += 1e-3  # every number moves by that and its own scale
    pieces = hnet.plan.pieces
    wanted = 1e-6 * sum(piece.scale**2 * piece.numel for piece in pieces)
    assert penalty(hnet, reg)[0] == pytest.approx(wanted, rel=1e-3)


def test_array_weights_and_factored_forms_take_the_outputs(take: Callable[..., None]) -> None:
    take("gram", "penalties")
    mask = jnp.asarray(np.random.rand(4, 4))
    for choices, weights in (
        ({}, {"layers.0.kernel": mask}),
        ({"form": {"layers.0.kernel": hl.LoRA(2)}}, {}),
    ):
        reg = hl.OutputRegularizer(1.0, weights=weights)
        reg.remember(over_mlp(dtype=jnp.float32, **choices), range(2))
        assert not reg.heads
        assert reg.targets


def test_forgetting_forgets_heads_too() -> None:
    hnet = over_mlp(hl.Chunked(40, embedding=2), jnp.float32, trunk=hl.MLP(2))
    reg = hl.OutputRegularizer(1.0)
    reg.remember(hnet, range(4))
    assert reg.heads
    reg.remember(hnet, range(0))
    assert not reg.heads
    assert reg(shaken(hnet)) == 0
