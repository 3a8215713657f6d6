"""Batch norm in the trunk on JAX, with statistics of its own for each condition id."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hl
from hyperloom.jax._generate.draws import Start
from hyperloom.jax._generate.norms import IdNorm
from tests._support.on_jax import hypernetwork

norm_of = nnx.jit(lambda norm, x, ids: norm(x, ids))


def norm() -> IdNorm:
    return IdNorm(5, 4, Start(nnx.Rngs(0), "float32"))


def linear() -> nnx.Module:
    return nnx.Linear(6, 4, rngs=nnx.Rngs(0))


build = partial(
    hypernetwork,
    linear,
    seed=1,
    condition=hl.Embedding(3, 2),
    trunk=hl.MLP(7, 5, norm="batch", per_condition=True),
    layout=hl.Chunked(4, 3),
)


@pytest.mark.parametrize("slots", [3, 1])
def test_rows_of_an_id_are_normalised_among_themselves(slots: int) -> None:
    made, ids = norm(), np.array([2, 0, 2, 4, 0, 4])
    x = np.random.randn(6, slots, 4).astype(np.float32)
    y = norm_of(made, jnp.asarray(x), jnp.asarray(ids))
    for i in (0, 2, 4):
        rows = x[ids == i].reshape(-1, 4)
        wanted = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
        np.testing.assert_allclose(y[ids == i].reshape(-1, 4), wanted, atol=1e-5)
        np.testing.assert_allclose(made.norm_mean[i], 0.1 * rows.mean(0), atol=1e-6)
        np.testing.assert_allclose(made.norm_var[i], 0.9 + 0.1 * rows.var(0, ddof=1), atol=1e-6)
    for i in (1, 3):  # were not called
        assert not made.norm_mean[i].any()
        assert (made.norm_var[i] == 1).all()


def test_what_cannot_be_normalised_is_nan_where_ids_are_traced() -> None:
    """An id with one row, or out of range: it touches neither other ids nor the statistics."""
    made, x = norm(), jnp.asarray(np.random.randn(5, 1, 4), jnp.float32)
    y = norm_of(made, x, jnp.array([3, 1, 3, -1, 5]))
    assert jnp.isnan(y).all((1, 2)).tolist() == [False, True, False, False, False]
    assert jnp.isfinite(y[jnp.array([0, 2])]).all()
    assert made.norm_mean[...].any(1).tolist() == [False, False, False, True, False]
    hnet = build()
    generated = nnx.jit(lambda hnet, ids: hnet.generate(ids))(hnet, jnp.array([1, 7]))
    assert jnp.isfinite(generated["kernel"][0]).all()
    assert jnp.isnan(generated["kernel"][1]).all()
    held = hnet.trunks[0].layers[0].by_id.norm_mean[...]
    assert held.any(1).tolist() == [False, True, False]
    assert jnp.isfinite(held).all()


def test_a_call_trains_them_and_eval_uses_each_ids_own() -> None:
    hnet = build()
    call = nnx.jit(lambda hnet, x, ids: hnet(x, condition=ids))
    x = jnp.asarray(np.random.randn(3, 5, 6), jnp.float32)
    gradient = nnx.jit(nnx.grad(lambda hnet: jnp.square(hnet(x, condition=[0, 1, 1])).sum()))
    found = jax.tree.leaves(gradient(hnet))
    assert all(jnp.abs(g).any() for g in found)
    held = hnet.trunks[0].layers[1].by_id
    assert held.norm_mean[...].any(1).tolist() == [True, True, False]
    explained = hnet.explain(x, condition=[0, 1, 1])  # traces a call and keeps nothing of it
    assert len(explained.used) == 2
    hnet.eval()
    kept = held.norm_mean[...]
    both = call(hnet, x, jnp.arange(3))
    one = call(hnet, x[1:2], jnp.array([1]))
    np.testing.assert_allclose(both[1:2], one, atol=1e-5)
    np.testing.assert_array_equal(held.norm_mean[...], kept)
    hnet.add_conditions(2, rngs=nnx.Rngs(0))
    assert held.norm_var[...].shape == (5, 5)
    np.testing.assert_allclose(call(hnet, x, jnp.arange(3)), both, atol=1e-6)


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"trunk: got MLP.* wanted a condition with ids"):
        build(condition=hl.Vector(2))
    hnet = build(layout=hl.Full())
    for ids in ([0, 0, 1], 1):
        with pytest.raises(ValueError, match="got one row for the id 1, which has no variance"):
            hnet.generate(ids)
    hnet = build()
    hnet.execution = hl.Execution(recompute=True)
    with pytest.raises(ValueError, match="with a trunk whose batch norm is training; wanted all"):
        hnet(jnp.ones((3, 5, 6)), condition=[0, 1, 2])
