"""Rows that share ids generate each id once, under `jit` too: their number decides."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests.on_jax.plain import build, draws, same

ROWS = 64


def outputs_and_flops(hnet: hl.HyperNetwork, ids: Any) -> tuple[Any, float]:
    net, params = hl.functional(hnet)
    x = draws(0, len(ids), 3)

    def loss(params: Any, net: Any, x: Any, ids: Any) -> Any:
        y = net(params, x, condition=ids)
        return jnp.sum(jnp.sin(y)), y

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    compiled: Any = step.lower(params, net, x, ids).compile()
    ((_, y), grads) = compiled(params, net, x, ids)
    return (y, grads), compiled.cost_analysis()["flops"]


@pytest.mark.parametrize(
    "choices",
    [{"layout": hl.Chunked(8, 3)}, {"form": {"*.kernel": hl.LoRA(1)}}],
    ids=["chunked", "factors"],
)
def test_each_id_is_generated_once(choices: Any) -> None:
    choices = {"trunk": hl.MLP(32, 32), "layout": None, **choices}
    hnet = build(condition=hl.Embedding(4, 3), **choices)
    ids = jnp.arange(ROWS) % 3
    (y, grads), flops = outputs_and_flops(hnet, ids)
    hnet.add_conditions(ROWS - 4, rngs=nnx.Rngs(0))  # as many ids as rows: each row for itself
    (wanted, expected), many = outputs_and_flops(hnet, ids)
    assert not expected.pop("condition.table.blocks.1").any()  # no row has one of the new ids
    same(y, wanted, 1e-5)
    same(grads, expected, 1e-4)
    assert flops < many / 3


def test_an_unknown_id_still_gives_nan_to_its_rows_only() -> None:
    hnet = build(condition=hl.Embedding(4, 3))
    ids = jnp.arange(ROWS) % 3
    y = jax.jit(lambda ids: hnet(draws(0, ROWS, 3), condition=ids))(ids.at[5].set(4).at[6].set(-1))
    assert jnp.isnan(y[5:7]).all()
    assert not jnp.isnan(y[:5]).any()
    assert not jnp.isnan(y[7:]).any()


def rows_of_the_trunk(hnet: hl.HyperNetwork, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    seen: set[int] = set()
    real = type(hnet.trunks[0]).__call__

    def call(self: Any, vector: Any, *args: Any) -> Any:
        seen.add(vector.shape[0])
        return real(self, vector, *args)

    with monkeypatch.context() as patch:
        patch.setattr(type(hnet.trunks[0]), "__call__", call)
        hnet(draws(0, ROWS, 3), condition=jnp.arange(ROWS) % 3, rngs=jax.random.key(0))
    return seen


def test_only_where_no_result_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    condition = hl.Embedding(4, 3)
    assert rows_of_the_trunk(build(condition=condition), monkeypatch) == {4}
    few = build(condition=hl.Embedding(ROWS, 3))
    assert rows_of_the_trunk(few, monkeypatch) == {ROWS}, "fewer rows than twice the ids"
    drops = build(condition=condition, trunk=hl.MLP(6, dropout=0.5))
    assert rows_of_the_trunk(drops, monkeypatch) == {ROWS}
    drops.eval()
    assert rows_of_the_trunk(drops, monkeypatch) == {4}
    norms = build(condition=condition, trunk=hl.MLP(6, norm="batch"))
    assert rows_of_the_trunk(norms, monkeypatch) == {ROWS}
    own = nnx.Sequential(nnx.Linear(3, 6, rngs=nnx.Rngs(0)), jnp.tanh)
    assert rows_of_the_trunk(build(condition=condition, trunk=own), monkeypatch) == {ROWS}
