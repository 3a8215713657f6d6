"""`doctor()` in JAX: the same report as in PyTorch, from the same findings."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests.on_jax.plain import build, draws, target

IDS = jnp.array([0, 1, 2])
X = draws(0, 3, 8, 3)


def state_of(hnet: hl.HyperNetwork) -> list[Any]:
    leaves = jax.tree.leaves(nnx.state(hnet))
    keys = [jnp.issubdtype(v.dtype, jax.dtypes.prng_key) for v in leaves]
    pairs = zip(leaves, keys, strict=True)
    return [np.asarray(jax.random.key_data(v) if key else v) for v, key in pairs]


def test_a_healthy_one_and_its_numbers() -> None:
    hnet = build()
    before = state_of(hnet)
    report = hnet.doctor(X, condition=IDS)
    assert isinstance(report, hl.Report)
    assert report.ok, report
    for a, b in zip(before, state_of(hnet), strict=True):
        np.testing.assert_array_equal(a, b)
    params = hl.functional(hnet)[1]
    assert {p.name for p in report.readings.parts} == set(params)
    made = hnet.generate(IDS)
    rows = {t.name: t for t in report.readings.tensors}
    kernel = np.asarray(made["layers.2.kernel"])
    assert rows["layers.2.kernel"].rms == pytest.approx(np.sqrt((kernel**2).mean()), rel=1e-5)
    assert 0.5 < rows["layers.2.kernel"].rms / rows["layers.2.kernel"].native < 2
    assert all(t.gradient is not None for t in report.readings.tensors)
    first, second = report.readings.layers
    assert (first.name, first.kind, second.name) == ("layers.0", "Linear", "layers.2")
    alone = [hnet.instantiate(i).layers[0](X[i]) for i in range(3)]
    size = np.sqrt(np.mean([np.mean(np.square(y)) for y in alone]))
    assert first.activation == pytest.approx(size, rel=1e-4)
    assert 0 < first.gradient < 10 * first.native_gradient
    assert [name for name, _ in report.readings.stages][-1] == "outputs"
    assert "difference between conditions" in repr(report)


class Cutting(nnx.Module):
    """A trunk that cuts the gradient."""

    dim = 6

    def __init__(self) -> None:
        self.layer = nnx.Linear(3, 6, rngs=nnx.Rngs(0))

    def __call__(self, rows: Any) -> Any:
        return jnp.tanh(jax.lax.stop_gradient(self.layer(rows)))


def test_a_trunk_that_cuts() -> None:
    report = build(trunk=Cutting()).doctor(X, condition=IDS)
    (found,) = report.about("gradient")
    assert found.level == "fault"
    assert found.where == (
        "condition.table.blocks.0",
        "trunks.0.module.layer.bias",
        "trunks.0.module.layer.kernel",
    )
    assert "something on the way cuts it (stop_gradient" in found.text


class Odd(nnx.Module):
    """It cuts one gradient, leaves one tensor out, and makes a loop over one layer."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.cut = nnx.Linear(3, 3, use_bias=False, rngs=rngs)
        self.looped = nnx.Linear(3, 3, use_bias=False, rngs=rngs)
        self.unused = nnx.Linear(3, 3, use_bias=False, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = jax.lax.stop_gradient(self.cut(x))
        step = lambda x, _: (jnp.tanh(self.looped(x)), None)  # noqa: E731
        return jax.lax.scan(step, x, length=4)[0]


def test_a_target_that_cuts_loops_and_forgets() -> None:
    hnet = hl.HyperNetwork(Odd(), condition=hl.Vector(2), rngs=nnx.Rngs(0))
    report = hnet.doctor(X, condition=draws(1, 3, 2))
    rows = {t.name: t for t in report.readings.tensors}
    assert (rows["cut.kernel"].gradient, rows["cut.kernel"].used) == (None, True)
    assert (rows["unused.kernel"].gradient, rows["unused.kernel"].used) == (None, False)
    assert rows["looped.kernel"].gradient
    texts = {f.where: f.text for f in report.about("gradient")}
    assert "the target's forward cuts it (stop_gradient" in texts[("cut.kernel",)]
    assert "is not used by the target" in texts[("unused.kernel",)]
    assert [x.name for x in report.readings.layers] == ["cut", "looped"]


def test_nothing_depends_on_the_condition() -> None:
    hnet = build(condition=hl.Vector(3), trunk=None)
    report = hnet.doctor(X, condition=jnp.ones((3, 3)))
    assert any("the conditions given are all the same" in f.text for f in report.findings)
    hnet = build()
    table = hnet.condition.table.blocks[0]
    table[...] = jnp.ones_like(table[...])
    report = hnet.doctor(X, condition=IDS)
    texts = [f.text for f in report.about("condition")]
    assert any("rows that are all the same" in text for text in texts)
    assert any("the outputs do not depend on the condition" in text for text in texts)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


def test_linen_with_keys_and_state() -> None:
    linen = hl.Linen(Net(), X[0], train=False)
    hnet = hl.HyperNetwork(linen, condition=hl.Embedding(5, 3), rngs=nnx.Rngs(0))
    report = hnet.doctor(X, condition=IDS, rngs=jax.random.key(0))
    assert not [f for f in report.findings if f.level == "fault"], report
    assert [x.kind for x in report.readings.layers] == ["BatchNorm", "Dense", "Dense"]
    assert any("it updates its state" in f.text for f in report.about("call"))
    assert not hnet.memory.warned, "the warning is still to be given to the user"


def test_a_call_that_fails_is_a_finding_and_a_method_is_examined() -> None:
    report = build().doctor(X[:2], condition=IDS)
    (found,) = report.about("call")
    assert found.text.startswith("the call fails: ValueError: input 0: got shape (2, 8, 3)")
    method = lambda net, x: net.layers[0](x)  # noqa: E731
    report = hl.HyperNetwork(
        target(), condition=hl.Vector(2), form={"*.kernel": hl.LoRA(1)}, rngs=nnx.Rngs(0)
    ).doctor(X, condition=draws(1, 3, 2), method=method)
    assert [x.name for x in report.readings.layers] == ["layers.0"]
    unused = {n for f in report.findings if "not used by the target" in f.text for n in f.where}
    assert unused == {"layers.2.kernel", "layers.2.bias"}
