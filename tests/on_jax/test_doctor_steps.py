"""`doctor(optimizer=)` in JAX: how far a step of optax moves what is generated."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests.on_jax.plain import build, draws

IDS = jnp.array([0, 1, 2])
X = draws(0, 3, 8, 3)


def examined(hnet: hl.HyperNetwork, optimizer: Any) -> hl.Report:
    return hnet.doctor(X, condition=IDS, optimizer=optimizer)


def grouped(hnet: hl.HyperNetwork, rate: float) -> Any:
    rates, labels = hl.param_groups(hnet, rate)
    return optax.multi_transform({name: optax.adam(r) for name, r in rates.items()}, labels)


def test_a_large_step_is_a_fault_and_its_numbers_are_those_of_a_step() -> None:
    hnet = build(trunk=hl.MLP(1024))
    report = examined(hnet, optax.adam(1e-3))
    (found,) = report.about("step")
    assert found.level == "fault"
    assert set(found.where) == {"layers.0.kernel", "layers.2.kernel"}  # biases start as constants
    assert found.text.startswith("one step of optax moves it by up to ")
    assert "param_groups()" in found.text
    assert "optax step" in repr(report)
    # Adam's first step is the sign of the gradient, for the same projection of the outputs.
    net, params = hl.functional(hnet)
    direction = jax.random.normal(jax.random.key(0), (3, 8, 2))
    loss = lambda params: (net(params, X, condition=IDS) * direction).sum()  # noqa: E731
    optimizer = optax.adam(1e-3)
    updates: Any
    updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params)
    before = net.generate(params, IDS)
    after = net.generate({name: params[name] + u for name, u in updates.items()}, IDS)
    for reading in report.readings.tensors:
        old, new = (np.asarray(made[reading.name], np.float64) for made in (before, after))
        moved = np.sqrt(np.square(new - old).mean())
        spec = hnet.plan.spec[reading.name]
        if spec.std == 0.0:
            assert (reading.step, reading.native_step) == (None, None)
            continue
        assert reading.step == pytest.approx(moved / max(old.std(), spec.std), rel=0.02)
        # Every number of a plain network that has a gradient moves by the rate.
        assert reading.native_step == pytest.approx(1e-3 / spec.std, rel=0.5)


def test_nothing_is_found_with_groups_and_nothing_is_left_behind() -> None:
    hnet = build(trunk=hl.MLP(256))
    before = hl.functional(hnet)[1]
    report = examined(hnet, grouped(hnet, 1e-3))
    assert not report.about("step"), report
    assert report.ok, report
    for name, value in hl.functional(hnet)[1].items():
        np.testing.assert_array_equal(value, before[name])


def test_what_does_not_learn_is_named_and_gradient_descent_is_not_judged() -> None:
    hnet = build()
    frozen = lambda params: {n: "no" if "condition" in n else "yes" for n in params}  # noqa: E731
    only = optax.multi_transform({"yes": optax.adam(1e-5), "no": optax.set_to_zero()}, frozen)
    (found,) = examined(hnet, only).about("step")
    assert (found.level, found.where) == ("warning", ("condition.table.blocks.0",))
    assert "is in no group of optax: it does not learn" in found.text
    (found,) = examined(hnet, optax.sgd(10.0)).about("step")
    assert (found.level, "grows with the gradient" in found.text) == ("note", True)


def test_a_step_that_cannot_be_tried_is_noted() -> None:
    hnet = build()
    (found,) = examined(hnet, optax.adam(0.0)).about("step")
    assert (found.level, "its first step is zero" in found.text) == ("note", True)
    (found,) = examined(hnet, optax.masked(optax.adam(1e-3), {"other": True})).about("step")
    assert (found.level, "could not be tried: it fails: " in found.text) == ("note", True)


def test_what_is_no_optimiser_is_refused() -> None:
    hnet = build()
    given: Any
    for given in (1e-3, "adam", optax.adam, nnx.Optimizer(hnet, optax.adam(1e-3), wrt=nnx.Param)):
        with pytest.raises(TypeError, match=r"^optimizer: got .*wanted an optax\.Gradient"):
            examined(hnet, given)
