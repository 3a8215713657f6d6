"""Images as weights on JAX: the trunk `Deconv` and the layout `Direct`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests._support.on_jax import hypernetwork
from tests.on_jax.cases import mlp  # 50 numbers

build = partial(hypernetwork, mlp, seed=1, condition=hl.Embedding(3, 4))


RUNS: dict[str, Any] = {
    "trunk": hl.Deconv((5, 4), (4,), 3, (0,)),
    "layout": hl.Direct(20, 3, per_condition=True),
}


def test_a_batch_is_as_a_loop_and_learns() -> None:
    hnet = build(**RUNS)
    net, params = hl.functional(hnet)
    x, ids = jnp.asarray(np.random.randn(3, 7, 4), jnp.float32), jnp.arange(3)

    @jax.jit
    def step(params: Any) -> Any:
        def loss(params: Any) -> Any:
            y = net(params, x, condition=ids)
            return jnp.square(y).sum(), y

        return net.generate(params, ids), jax.grad(loss, has_aux=True)(params)

    made, (grads, y) = step(params)
    for i in range(3):
        h = np.asarray(x[i])
        for layer in (0, 2, 4):
            h = h @ made[f"layers.{layer}.kernel"][i] + made[f"layers.{layer}.bias"][i]
            h = h if layer == 4 else np.tanh(h)
        np.testing.assert_allclose(y[i], h, atol=1e-5)
    # Self-attention starts with a factor of zero: only the factor itself has a gradient.
    without = {name for name, g in grads.items() if not np.abs(g).any()}
    assert without == {n for n in params if ".attention." in n and "gamma" not in n}
    assert hnet.plan.num_parameters == sum(p.size for p in params.values())


def test_starts_with_the_targets_own_scale() -> None:
    """On the conditions that there are, all numbers together have the plan's variance exactly."""
    hnet = build(trunk=hl.Deconv((5, 5, 2), (8, 4), 3), layout=hl.Direct(50))
    made = jax.jit(hnet.generate)(jnp.arange(3))
    pieces = zip(made.values(), hnet.plan.pieces, strict=True)
    units = [np.ravel((value - piece.shift) / piece.scale) for value, piece in pieces]
    np.testing.assert_allclose(np.square(np.concatenate(units)).mean(), 1, rtol=1e-4)
    assert hnet.plan.pieces[0].scale == pytest.approx(hl.target_spec(mlp()).tensors[0].std)


def test_batch_norm_trains_and_evaluates() -> None:
    hnet = build(trunk=hl.Deconv((8, 8), (4, 3), 3, norm="batch"), layout=hl.Direct(64))
    held = hnet.trunks[0].norms[1]
    x = jnp.ones((2, 7, 4))
    nnx.jit(lambda hnet, x: hnet(x, condition=[0, 1]))(hnet, x)
    assert jnp.abs(held.norm_mean[...]).any()
    assert (held.norm_var[...] != 1).all()
    hnet.eval()
    kept = held.norm_mean[...]
    generate = jax.jit(hnet.generate)
    both, other = generate(jnp.array([0, 1])), generate(jnp.array([1, 2]))
    for name, value in both.items():
        np.testing.assert_allclose(value[1], other[name][0], atol=1e-5)
    np.testing.assert_array_equal(held.norm_mean[...], kept)


def test_growth_and_checkpoints(tmp_path: Path) -> None:
    hnet = build(**RUNS)
    generate = nnx.jit(lambda hnet, ids: hnet.generate(ids))
    before = generate(hnet, jnp.arange(3))
    added = hnet.add_conditions(2, rngs=nnx.Rngs(2))
    assert [p.shape for p in added] == [(2, 4), (2, 3, 3)]
    hl.save(hnet, tmp_path / "a")
    loaded = hl.load(tmp_path / "a", mlp())
    ids = jnp.array([0, 1, 2, 4])
    after, wanted = generate(loaded, ids), generate(hnet, ids)
    for name, value in before.items():
        np.testing.assert_allclose(after[name][:3], value, atol=1e-6)
        np.testing.assert_array_equal(after[name], wanted[name])
        assert jnp.isfinite(after[name]).all()


def test_added_ids_without_vectors() -> None:
    hnet = build(condition=hl.Ids(3), layout=hl.Chunked(20, 3, per_condition=True))
    before = hnet.generate([0, 1, 2])
    hnet.add_conditions(1, rngs=nnx.Rngs(2))
    assert hnet.plan.condition == hl.Ids(4)
    for name, value in hnet.generate(range(4)).items():
        np.testing.assert_array_equal(value[:3], before[name])
        assert jnp.isfinite(value).all()


def test_angles_are_points_of_the_quarter_circle() -> None:
    hnet = build(condition=hl.CosSin(2), form=hl.Delta(trained=True))
    angles = jnp.array([0.25, 1.0])
    vector = hnet.condition(angles).vector
    wanted = [*np.cos(angles * np.pi / 2), *np.sin(angles * np.pi / 2)]
    np.testing.assert_allclose(vector, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("choices", "shown"),
    [
        (
            {"trunk": hl.Deconv((8, 8), (4,)), "layout": hl.Direct(60)},
            "layout: got Direct(60) with features of width 64; wanted Direct(64)",
        ),
        (
            {"trunk": hl.MLP(40, norm=None), "layout": hl.Direct(40)},
            "Direct(size=): got 40; wanted at least 50",
        ),
        (
            {"condition": hl.Ids(3), "trunk": hl.MLP(50), "layout": hl.Direct(50)},
            "condition: got Ids(3), which has no vector, for direct heads; wanted a vector",
        ),
    ],
    ids=["width", "size", "no vector"],
)
def test_refused(choices: Any, shown: str) -> None:
    with pytest.raises(ValueError, match="got") as raised:
        build(**choices)
    assert str(raised.value).startswith(shown)
