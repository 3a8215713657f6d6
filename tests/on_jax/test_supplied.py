"""Parameters of a hypernetwork from outside: from another hypernetwork, or perturbed."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests._support import compare
from tests._support.on_jax import hypernetwork
from tests.on_jax.cases import biased


def linear() -> nnx.Module:
    return biased(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Rngs(1))


build = partial(
    hypernetwork,
    linear,
    seed=2,
    condition=hl.Embedding(5, 3),
    trunk=hl.MLP(6),
    layout=hl.Chunked(5, 2),
)


close = partial(compare.close, tolerance=1e-6, relative=False)


def test_a_hypernetwork_of_a_hypernetwork() -> None:
    """Two sets of parameters of the inner one, from the outer one; each on vectors of its own."""
    inner = build(condition=hl.Vector(3))
    outer = hl.HyperNetwork(
        inner, condition=hl.Embedding(2, 4), layout=hl.Chunked(50, 3), rngs=nnx.Rngs(3)
    )
    net, own = hl.functional(inner)
    ids, vectors = jnp.arange(2), jnp.asarray(np.random.randn(2, 4, 3), jnp.float32)
    x = jnp.asarray(np.random.randn(2, 4, 7, 3), jnp.float32)

    @nnx.jit
    def every_way(outer: Any, inner: Any) -> Any:
        given = outer.generate(ids)
        made = jax.vmap(lambda p, v: inner.generate(v, parameters=p))(given, vectors)
        call = jax.vmap(lambda p, x, v: net(p, x, condition=v))
        whole = outer(hl.Inputs(x, condition=vectors), condition=ids)
        return given, made, inner.run(made, x), call(given, x, vectors), whole

    given, made, *results = every_way(outer, inner)
    assert set(given) == set(own)
    for i in range(2):  # put in place, one by one
        twin = build(condition=hl.Vector(3))
        net.update(twin, {name: value[i] for name, value in given.items()})
        close({n: v[i] for n, v in made.items()}, twin.generate(vectors[i]))
    for result in results:
        np.testing.assert_allclose(result, results[0], atol=1e-5)

    def loss(outer: Any) -> Any:
        made = inner.generate(vectors[0], parameters=outer.generate(1))
        return jnp.square(made["kernel"]).sum()

    gradient = nnx.jit(nnx.grad(loss))(outer)
    assert all(jnp.abs(g).any() for g in jax.tree.leaves(gradient))


def test_only_the_conditions_parameters_from_outside() -> None:
    """A table for other ids than the hypernetwork has; it is differentiated."""
    hnet, table = build(), jnp.asarray(np.random.randn(9, 3), jnp.float32)

    @jax.jit
    def flat(table: Any) -> Any:
        made = hnet.generate(jnp.array([8, 0]), parameters={"condition.table.blocks.0": table})
        return jnp.concatenate([v.reshape(2, -1) for v in made.values()], -1).sum(), made

    (_, made), gradient = jax.value_and_grad(flat, has_aux=True)(table)
    assert gradient.any(1).tolist() == [True, *[False] * 7, True]
    names = {n: p for n, p in hl.functional(hnet)[1].items() if "condition" not in n}
    vectors = build(condition=hl.Vector(3), seed=7)
    close(made, vectors.generate(table[jnp.array([8, 0])], parameters=names))
    assert hnet.plan.num_ids == 5
    assert hl.functional(hnet)[1]["condition.table.blocks.0"].shape == (5, 3)


def test_streams_go_on_and_statistics_are_kept() -> None:
    """All but what is given is the hypernetwork's own, and not a copy."""
    trunk = hl.MLP(6, norm="batch", per_condition=True, dropout=0.5)
    hnet = build(trunk=trunk)
    weight = {"trunks.0.layers.0.weight": jnp.ones((6, 5))}
    kernel = nnx.jit(lambda hnet, given: hnet.generate(3, parameters=given)["kernel"])
    first, second = (kernel(hnet, weight) for _ in range(2))
    assert (first != second).any()
    held = hnet.trunks[0].layers[0]
    assert held.by_id.norm_mean[...].any(1).tolist() == [False, False, False, True, False]
    assert (held.weight[...] != 1).any()
    # Statistics can be given too; what is given is not changed.
    hnet.eval()
    mean, name = held.by_id.norm_mean[...], "trunks.0.layers.0.by_id.norm_mean"
    moved, before = (kernel(hnet, {name: value}) for value in (mean + 1, mean))
    assert (moved != before).any()
    np.testing.assert_array_equal(held.by_id.norm_mean[...], mean)


@pytest.mark.parametrize(
    ("given", "error", "shown"),
    [
        ([], TypeError, "parameters: got a list; wanted a dict from names"),
        (
            {"trunk.0.layers.0.weight": jnp.zeros(1)},
            ValueError,
            "parameters: got the name 'trunk.0.layers.0.weight'; wanted a dict from names of the "
            "hypernetwork's parameters to arrays. Did you mean 'trunks.0.layers.0.weight' or",
        ),
        (
            {"trunks.0.layers.0.weight": jnp.zeros((6, 2))},
            ValueError,
            "parameters['trunks.0.layers.0.weight']: got shape (6, 2); wanted shape (6, 5)",
        ),
        (
            {"condition.table.blocks.0": jnp.zeros((9, 2))},
            ValueError,
            "parameters['condition.table.blocks.0']: got shape (9, 2); wanted shape (ids, 3)",
        ),
        ({"scales": 1.0}, TypeError, "parameters['scales']: got 1.0; wanted an array"),
        ({"target.template.kernel": jnp.zeros((3, 2))}, ValueError, "parameters: got the name"),
        (
            {"condition.table.blocks.0": jnp.zeros((6, 3))},
            IndexError,
            "condition: got the id 7",
        ),
    ],
    ids=["a list", "a name", "a shape", "a table", "a number", "the template's", "an id"],
)
def test_refused(given: Any, error: Any, shown: str) -> None:
    with pytest.raises(error) as raised:
        build().generate(7, parameters=given)
    assert str(raised.value).startswith(shown)


def test_tables_for_different_numbers_of_ids_are_refused() -> None:
    hnet = build(layout=hl.Chunked(5, 2, per_condition=True))
    given = {"condition.table.blocks.0": jnp.zeros((9, 3))}
    shown = r"got 9 rows in 'condition.table' and 5 rows in 'heads.chunked.slots'; wanted as many"
    with pytest.raises(ValueError, match=f"parameters: {shown}"):
        hnet.generate(7, parameters=given)
    net, params = hl.functional(hnet)
    with pytest.raises(ValueError, match=f"params: {shown}"):
        net.generate({**params, **given}, 7)
    with pytest.raises(ValueError, match=r"params\['heads.chunked.bias'\]: got shape \(1,\)"):
        net.generate({**params, "heads.chunked.bias": jnp.zeros(1)}, 0)
    with pytest.raises(TypeError, match=r"params\['heads.chunked.bias'\]: got 0.0; wanted an"):
        net.generate({**params, "heads.chunked.bias": 0.0}, 0)  # type: ignore[dict-item]
