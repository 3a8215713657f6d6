"""A batch of conditions is one call, and the same as a loop: outputs and gradients."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests._support import compare
from tests._support.cases import pick
from tests.on_jax.cases import CASES, LINEN, Case


def cover(rows: Iterable[Case]) -> list[Case]:
    """Return few rows in which every choice occurs; greedy, always the same ones."""
    left = list(rows)
    missing = {pair for row in left for pair in vars(row).items()}
    found = []
    while missing:
        row = max(left, key=lambda row: len(missing & set(vars(row).items())))
        missing -= set(vars(row).items())
        found.append(row)
    return found


# Each row is compiled twice, with its gradients: a few for every day, all in the slow suite.
FEW = [*cover(CASES)[::3], LINEN[1]]
REST = [case for case in (*CASES, *LINEN) if case not in FEW]
ALL = [*FEW, *(pytest.param(case, marks=pytest.mark.slow) for case in REST)]


close = partial(compare.close, scaled=True)


def batch_and_loop(case: Case, dtype: Any, num: int = 3) -> tuple[Any, Any]:
    """Return loss, outputs and gradients of a batch, and of a loop over its conditions."""
    hnet = case.build(dtype)
    net, params = hl.functional(hnet)
    x, conditions = case.inputs(num, dtype=dtype), case.conditions(num, dtype)

    def loss(params: Any, x: Any, condition: Any) -> Any:
        y = net(params, x, condition=condition)
        return jnp.sum(jnp.sin(y + 1)), y

    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    batch = value_and_grad(params, x, conditions)
    each = [value_and_grad(params, x[i], pick(conditions, i)) for i in range(num)]
    (values, outputs), gradients = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    return batch, ((values.sum(), outputs), jax.tree.map(lambda g: g.sum(0), gradients))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("case", ALL, ids=str)
def test_outputs_and_gradients_in_float64(case: Case) -> None:
    batch, loop = batch_and_loop(case, jnp.float64)
    close(batch, loop)
    assert all(jnp.any(g != 0) for name, g in batch[1].items() if name.startswith("heads"))


@pytest.mark.parametrize("case", FEW[:1], ids=str)
def test_outputs_and_gradients_in_float32(case: Case) -> None:
    close(*batch_and_loop(case, jnp.float32), 1e-5)


def _hnet(**choices: Any) -> hl.HyperNetwork:
    choices = {"condition": hl.Embedding(5, 4), **choices}
    rngs = nnx.Rngs(0)
    target = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), jnp.tanh, nnx.Linear(8, 2, rngs=rngs))
    return hl.HyperNetwork(target, rngs=nnx.Rngs(1), **choices)


X = jnp.asarray(np.random.RandomState(0).randn(6, 3, 4), jnp.float32)
IDS = jnp.array([0, 4, 1, 1, 3, 2])


@pytest.fixture(scope="module")
def hnet() -> hl.HyperNetwork:
    return _hnet()


def test_inputs_that_all_conditions_share(hnet: hl.HyperNetwork) -> None:
    y = hnet(X[0], condition=IDS, in_axes=None)
    close(y, hnet(jnp.broadcast_to(X[0], X.shape), condition=IDS), 1e-6)


def test_inputs_that_pair_at_another_dimension(hnet: hl.HyperNetwork) -> None:
    y = hnet(jnp.moveaxis(X, 0, 1), condition=IDS, in_axes=1)
    close(y, hnet(X, condition=IDS), 1e-6)


def test_conditions_with_two_batch_dimensions(hnet: hl.HyperNetwork) -> None:
    y = hnet(X.reshape(2, 3, 3, 4), condition=IDS.reshape(2, 3))
    close(y.reshape(6, 3, 2), hnet(X, condition=IDS), 1e-6)
    made = hnet.generate(IDS.reshape(2, 3))
    assert made["layers.0.kernel"].shape == (2, 3, 4, 8)


def test_what_is_generated_can_be_run(hnet: hl.HyperNetwork) -> None:
    params = hnet.generate(IDS)
    close(hnet.run(params, X), hnet(X, condition=IDS), 1e-6)
    one = hnet.generate(4)
    close(hnet.run(one, X[1]), hnet(X[1], condition=4), 1e-6)
    close(hnet.instantiate(4)(X[1]), hnet(X[1], condition=4), 1e-6)


class TwoInputs(nnx.Module):
    """Takes a tree of arrays, a keyword array and an option that is not an array."""

    def __init__(self) -> None:
        self.linear = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

    def __call__(self, pair: Any, *, scale: Any, mode: str) -> Any:
        y = self.linear(pair["x"]) + pair["more"][0]
        return {"y": y * scale if mode == "times" else y, "sum": y.sum()}


def test_trees_of_inputs_and_options() -> None:
    hnet = hl.HyperNetwork(TwoInputs(), condition=hl.Embedding(5, 4), rngs=nnx.Rngs(0))
    scale, more = jnp.arange(6.0), jnp.ones(4)

    def call(i: Any, **options: Any) -> Any:
        pair = {"x": X[i], "more": (more,)}
        return hnet(pair, scale=scale[i], mode="times", condition=IDS[i], **options)

    dims = ({"x": 0, "more": (None,)},)
    batch = call(slice(None), in_axes=dims)
    each = [call(i) for i in range(6)]
    close(batch, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each), 1e-6)


PARTS = {
    "three at a time": (700, False),
    "one, recomputed": (250, True),
    "recomputed": (None, True),
}


@pytest.mark.parametrize(("memory", "recompute"), PARTS.values(), ids=PARTS)
def test_a_batch_in_parts_is_the_same(memory: int | None, recompute: bool) -> None:
    condition = hl.Concat(hl.Embedding(5, 4), hl.Vector(2))
    trunk, layout = hl.MLP(6), hl.Chunked(9, 3)
    hnet = _hnet(condition=condition, trunk=trunk, layout=layout)
    value = (IDS, X[:, 0, :2])
    net, params = hl.functional(hnet)

    def loss(net: Any, params: Any) -> Any:
        return jnp.sum(net(params, X, condition=value) ** 2)

    expected = jax.jit(jax.value_and_grad(lambda p: loss(net, p)))(params)
    hnet.execution = hl.Execution(max_memory=memory, recompute=recompute)
    parts, _ = hl.functional(hnet)
    close(jax.jit(jax.value_and_grad(lambda p: loss(parts, p)))(params), expected, 1e-5)
    if memory:
        size = hnet.execution.conditions_at_once(hnet.plan.output_bytes(1, 4))
        assert size == (3 if memory == 700 else 1)


def test_parts_that_would_split_a_batch_norm_are_refused() -> None:
    hnet = _hnet(trunk=hl.MLP(6, norm="batch"))
    hnet.execution = hl.Execution(max_memory=1)
    with pytest.raises(ValueError, match="a trunk whose batch norm is training; wanted all"):
        hnet(X, condition=IDS)
    hnet.eval()
    assert hnet(X, condition=IDS).shape == (6, 3, 2)
