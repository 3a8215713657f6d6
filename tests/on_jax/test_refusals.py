"""What users of JAX get wrong, and what they are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests._support.on_jax import over


def linear() -> nnx.Module:
    return nnx.Linear(3, 2, rngs=nnx.Rngs(0))


def linen() -> hl.Linen:
    return hl.Linen(nn.Dense(2), jnp.ones((1, 3)))


def over_linear(target: Any = None, **choices: Any) -> hl.HyperNetwork:
    choices = {"condition": hl.Embedding(4, 3), **choices}
    return over(linear() if target is None else target, **choices)


TARGETS = {"nnx": linear, "linen": linen}


# ---- parameters: for Linen too, which itself ignores what it does not know -----------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("change", "error", "shown"),
    [
        ({"kernle": jnp.ones((3, 2))}, ValueError, "params: got the name 'kernle'; wanted names"),
        ({"kernel": None}, ValueError, "params: got no array for 'kernel'; wanted an array for"),
        ({"bias": jnp.ones((5, 2))}, ValueError, "params['bias']: got shape (5, 2); wanted shape"),
        ({"bias": jnp.ones(3)}, ValueError, "params['bias']: got shape (3,); wanted shape"),
        (
            {"bias": [0.0, 0.0]},
            TypeError,
            "params['bias']: got [0.0, 0.0]; wanted an array, or Factors.",
        ),
        ({"bias": jnp.ones(2, int)}, TypeError, "params['bias']: got int32; wanted float32. Conv"),
    ],
    ids=["unknown", "missing", "batched", "mis-shaped", "a list", "another dtype"],
)
def test_given_parameters(target: str, change: dict[str, Any], error: Any, shown: str) -> None:
    hnet = over_linear(TARGETS[target]())
    params = {k: v for k, v in {**hnet.generate(1), **change}.items() if v is not None}
    if "bias" in change:  # the name that comes first tells the batch
        params = {"kernel": params.pop("kernel"), **params}
    with pytest.raises(error) as raised:
        hnet.run(params, jnp.ones((5, 3)))
    assert str(raised.value).startswith(shown)


def test_parameters_that_are_no_dict() -> None:
    with pytest.raises(TypeError, match="params: got a list; wanted a dict from names to arrays"):
        over_linear().run([1], jnp.ones(3))  # type: ignore[arg-type]


# ---- conditions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "error", "shown"),
    [
        (4, IndexError, "condition: got the id 4; wanted an int id, a list of ints or an integer"),
        ([0, -1], IndexError, "condition: got the id -1"),
        (True, TypeError, "condition: got True; wanted an int id"),
        ("a", TypeError, "condition: got 'a'; wanted an int id"),
        (jnp.ones(2), TypeError, "condition: got a float32 array of shape (2,); wanted an int id"),
        ([[0], [1, 2]], TypeError, "condition: got [[0], [1, 2]]; wanted an int id"),
    ],
    ids=["too large", "negative", "a bool", "a string", "floats", "ragged"],
)
def test_ids(condition: Any, error: Any, shown: str) -> None:
    with pytest.raises(error) as raised:
        over_linear().generate(condition)
    assert str(raised.value).startswith(shown)


@pytest.mark.parametrize("bad", [4, -1])
def test_an_id_out_of_range_that_is_traced_gives_nan(bad: int) -> None:
    """It cannot be refused; it must not be another id's network, as JAX's indexing would have."""
    made = jax.jit(over_linear().generate)(jnp.array([0, bad]))
    assert jnp.isfinite(made["kernel"][0]).all()
    assert jnp.isnan(made["kernel"][1]).all()


@pytest.mark.parametrize(
    ("condition", "error", "shown"),
    [
        (
            jnp.ones(2),
            ValueError,
            "condition: got a float32 array of shape (2,); wanted a floating",
        ),
        (jnp.ones(3, int), TypeError, "condition: got a int32 array of shape (3,); wanted a float"),
        ([1.0, 2.0, 3.0], TypeError, "condition: got [1.0, 2.0, 3.0]; wanted a floating array"),
    ],
    ids=["width", "ints", "a list"],
)
def test_vectors(condition: Any, error: Any, shown: str) -> None:
    with pytest.raises(error) as raised:
        over_linear(condition=hl.Vector(3)).generate(condition)
    assert str(raised.value).startswith(shown)


def test_parts_of_concat_with_other_batches() -> None:
    hnet = over_linear(condition=hl.Concat(hl.Embedding(4, 2), hl.Vector(3)))
    with pytest.raises(ValueError, match=r"parts of Concat with batches \(2,\) and \(3,\)"):
        hnet.generate((jnp.arange(2), jnp.ones((3, 3))))
    with pytest.raises(TypeError, match="wanted a tuple of 2 values, one for each part"):
        hnet.generate(jnp.arange(2))


class Wide(nnx.Module):
    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __call__(self, value: Any) -> Any:
        return jnp.ones((*value.shape, 5))


def test_a_condition_module_of_another_width() -> None:
    hnet = over_linear(condition=Wide(4))
    with pytest.raises(ValueError, match=r"condition module Wide: .* wanted an array \(\*batch, 4"):
        hnet.generate(jnp.ones(2))


# ---- inputs, state, keys ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "options", "error", "shown"),
    [
        ((2, 5, 3), {}, ValueError, "input 0: got shape (2, 5, 3) beside conditions (3,); wanted"),
        ((3,), {"in_axes": 1}, ValueError, "input 0: got shape (3,) beside conditions (3,)"),
        ((3, 5, 3), {"in_axes": (0, 0)}, ValueError, "in_axes: got 2 entries for 1 inputs"),
        (
            (3, 5, 3),
            {"in_axes": "0"},
            TypeError,
            "in_axes: got '0' for input 0; wanted an int or None",
        ),
        ((3, 5, 3), {"rngs": 0}, TypeError, "rngs: got 0; wanted an nnx.Rngs, a key or a dict"),
        ((3, 5, 3), {"state": {"a": 1}}, ValueError, "state: got the name 'a'; wanted names of"),
    ],
    ids=["batch", "dimension", "entries", "a string", "a seed", "unknown state"],
)
def test_inputs(x: tuple[int, ...], options: Any, error: Any, shown: str) -> None:
    with pytest.raises(error) as raised:
        over_linear()(jnp.ones(x), condition=[0, 1, 2], **options)
    assert str(raised.value).startswith(shown)


def test_state_of_another_shape() -> None:
    hnet = over_linear(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"state\['mean'\]: got shape \(3,\); wanted an array of"):
        hnet(jnp.ones((2, 5, 3)), condition=[0, 1], state={"mean": jnp.ones(3)})


# ---- choices ------------------------------------------------------------------------------------


class Empty(nnx.Module):
    def __call__(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize(
    ("choices", "error", "shown"),
    [
        ({"target": nnx.Linear}, TypeError, "target: got the class Linear; wanted an nnx.Module"),
        ({"target": nn.Dense(2)}, TypeError, "target: got a Dense; wanted an nnx.Module, Linen(mo"),
        ({"target": Empty()}, ValueError, "target: got Empty, which has no parameters; wanted a"),
        ({"rngs": 0}, TypeError, "rngs: got 0; wanted an nnx.Rngs with a params or default stream"),
        ({"rngs": nnx.Rngs(noise=0)}, TypeError, "rngs: got Rngs without a stream for params;"),
        ({"condition": hl.Embedding}, TypeError, "condition: got the class Embedding; wanted a"),
        ({"condition": Empty()}, TypeError, "condition: got a Empty whose output width cannot be"),
        ({"trunk": 3}, TypeError, "trunk: got 3; wanted None, MLP(*widths), Transformer(width), "),
        ({"layout": {"*.weight": hl.Full()}}, ValueError, "layout: got the pattern '*.weight', wh"),
        ({"layout": hl.PerCondition(), "condition": hl.Vector(2)}, ValueError, "layout: got per_"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else None,
)
def test_choices(choices: dict[str, Any], error: Any, shown: str) -> None:
    with pytest.raises(error) as raised:
        over_linear(**choices)
    assert str(raised.value).startswith(shown)


def test_a_linen_module_is_told_how_to_wrap_itself() -> None:
    with pytest.raises(TypeError, match=r"Wrap it, with example inputs: hl\.Linen\(module, x\)\."):
        over_linear(nn.Dense(2))
    with pytest.raises(
        TypeError, match=r"Linen\(module\): got a Linear; wanted .* An NNX module is"
    ):
        hl.Linen(linear(), jnp.ones((1, 3)))  # type: ignore[arg-type]


def test_a_trunk_module_that_fails_or_is_of_another_width() -> None:
    narrow = nnx.Linear(7, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"trunk: got a Linear that fails on 4 rows"):
        over_linear(trunk=narrow)


def test_a_target_that_has_only_shapes() -> None:
    abstract = nnx.eval_shape(linear)
    hnet = over_linear(abstract)
    assert hnet(jnp.ones((5, 3)), condition=1).shape == (5, 2)
    with pytest.raises(ValueError, match="'bias' of a target that has only shapes; wanted values"):
        over_linear(abstract, layout={"kernel": hl.Full()})


def test_instantiate_takes_one_condition() -> None:
    with pytest.raises(ValueError, match=r"condition: got a batch of conditions \(2,\); wanted"):
        over_linear().instantiate([0, 1])


# ---- growth -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout", [hl.Full(), hl.Chunked(3, 2, per_condition=True), hl.PerCondition()], ids=str
)
def test_added_conditions_leave_old_outputs_bitwise_the_same(layout: Any) -> None:
    hnet = over_linear(layout=layout, trunk=hl.MLP(6))
    before = hnet.generate(range(4))
    added = hnet.add_conditions(2, rngs=nnx.Rngs(1))
    assert all(isinstance(p, nnx.Param) and p.shape[0] == 2 for p in added)
    again, after = hnet.generate(range(4)), hnet.generate(range(6))
    for name, value in before.items():
        np.testing.assert_array_equal(again[name], value)
        # XLA may sum a product of six rows in another order than one of four.
        np.testing.assert_allclose(after[name][:4], value, rtol=1e-6, atol=1e-6)
        assert jnp.isfinite(after[name]).all()
    assert hnet.plan.num_ids == 6
    learned = jax.tree.leaves(nnx.state(hnet, nnx.Param))
    assert sum(v.size for v in learned) == hnet.plan.num_parameters


def test_conditions_without_ids_do_not_grow() -> None:
    with pytest.raises(ValueError, match=r"add_conditions: got Vector\(2\); wanted a condition wi"):
        over_linear(condition=hl.Vector(2)).add_conditions(1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num: got 0; wanted an int of at least 1"):
        over_linear().add_conditions(0, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_not_saved(value: float, tmp_path: Path) -> None:
    hnet, path = over_linear(), tmp_path / "diverged"
    hl.save(hnet, path)
    before = path.read_bytes()
    condition: Any = hnet.condition
    table = condition.table.blocks[0]
    table.set_value(table.get_value().at[1, 2].set(value))
    with pytest.raises(ValueError, match=r"hnet: got 1 NaN or infinite values in 'condition.table"):
        hl.save(hnet, path)
    assert path.read_bytes() == before
