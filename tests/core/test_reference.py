"""The NumPy oracle against arithmetic by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import hyperloom as hl
from hyperloom import TargetSpec, TensorSpec
from hyperloom._core.choices.layouts import slot_signs
from hyperloom._core.reference.executor import generate

# A target of two tensors, 3 numbers.
PAIR = TargetSpec("Pair", (TensorSpec("w", (2, 1)), TensorSpec("b", (1,), hl.Role.BIAS)))
ONE = TargetSpec("One", (TensorSpec("w", (2,)),))
TABLE = np.array([[1.0, 2.0], [3.0, 4.0]])  # two ids, width 2


def plan(layout: Any = None, spec: TargetSpec = PAIR, trunk: Any = None, **choices: Any) -> hl.Plan:
    choices = {"condition": hl.Embedding(2, 2), "init": hl.Unscaled(), **choices}
    return hl.compile_plan(spec, layout=layout, trunk=trunk, **choices)


def as_lists(made: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: value.tolist() for name, value in made.items()}


def test_full() -> None:
    tensors = {
        "condition.table": TABLE,
        "heads.full.weight": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        "heads.full.bias": np.array([10.0, 20.0, 30.0]),
    }
    assert as_lists(generate(plan(), tensors, 0)) == {"w": [[11.0], [22.0]], "b": [33.0]}
    assert as_lists(generate(plan(), tensors, 1)) == {"w": [[13.0], [24.0]], "b": [37.0]}


CHUNKED = {
    "condition.table": TABLE,
    # Two chunks of two; the head adds the condition's parts to ten times the chunk's embedding.
    "heads.chunked.slots": np.array([[0.0], [5.0]]),
    "heads.chunked.weight": np.array([[1.0, 0.0, 10.0], [0.0, 1.0, 10.0]]),
    "heads.chunked.bias": np.array([0.5, 0.25]),
}


def test_chunked_and_cut() -> None:
    made = generate(plan(hl.Chunked(2, embedding=1, signs=False)), CHUNKED, 0)
    assert as_lists(made) == {"w": [[1.5], [2.25]], "b": [51.5]}


def test_chunks_see_the_features_under_their_signs() -> None:
    signs = slot_signs(2, 3)
    assert set(np.unique(signs)) <= {-1, 1}
    features = np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 5.0]]) * signs
    rows = features @ CHUNKED["heads.chunked.weight"].T + CHUNKED["heads.chunked.bias"]
    made = generate(plan(hl.Chunked(2, embedding=1)), CHUNKED, 0)
    np.testing.assert_allclose(made["w"].ravel(), rows.ravel()[:2])
    np.testing.assert_allclose(made["b"], rows.ravel()[2:3])


def test_chunk_embeddings_of_its_own() -> None:
    slots = np.array([[[0.0], [5.0]], [[1.0], [2.0]]])  # (ids, chunks, width)
    layout = hl.Chunked(2, embedding=1, per_condition=True, signs=False)
    made = generate(plan(layout), {**CHUNKED, "heads.chunked.slots": slots}, 1)
    assert as_lists(made) == {"w": [[13.5], [14.25]], "b": [23.5]}


def test_scale_and_shift() -> None:
    spec = TargetSpec(
        "Pair", (TensorSpec("w", (2, 1), std=1.0), TensorSpec("b", (1,), mean=1.0, std=0.0))
    )
    made = plan(hl.Chunked(2, embedding=1, signs=False), spec, init=hl.Native())
    assert [(p.scale, p.shift) for p in made.pieces] == [(1.0, 0.0), (1.0, 1.0)]
    # What the file holds counts, not what the plan says.
    tensors = {**CHUNKED, "scales": np.array([[2.0, 100.0], [0.0, 7.0]])}
    assert as_lists(generate(made, tensors, 0)) == {"w": [[103.0], [104.5]], "b": [7.0]}


def test_grouped_tiles() -> None:
    spec = TargetSpec("Tiled", (TensorSpec("a", (2, 2)), TensorSpec("b", (4, 4))))
    made = plan(hl.Grouped(1, hl.Tiles(4), signs=False), spec, condition=hl.Vector(1))
    assert [p.tile for p in made.pieces] == [(2, 2), (2, 2)]
    tensors = {
        "heads.grouped.slots": np.array([[0.0], [1.0], [2.0], [3.0], [4.0]]),
        # Each tile is its slot's number, times ten, plus its place within.
        "heads.grouped.weight": np.array([[0.0, 10.0]] * 4),
        "heads.grouped.bias": np.arange(4.0),
    }
    assert as_lists(generate(made, tensors, np.array([5.0]))) == {
        "a": [[0, 1], [2, 3]],
        "b": [[10, 11, 20, 21], [12, 13, 22, 23], [30, 31, 40, 41], [32, 33, 42, 43]],
    }


def test_grouped_layers() -> None:
    spec = TargetSpec(
        "Layers",
        (
            TensorSpec("x.w", (2,), layer="x"),
            TensorSpec("y.w", (2,), layer="y"),
            TensorSpec("x.b", (1,), layer="x"),
            TensorSpec("y.b", (1,), layer="y"),
        ),
    )
    tensors = {
        "heads.grouped.slots": np.array([[1.0], [2.0]]),
        "heads.grouped.weight": np.array([[0.0, 10.0]] * 3),
        "heads.grouped.bias": np.arange(3.0),
    }
    made = plan(hl.Grouped(1, hl.Layers(), signs=False), spec, condition=hl.Vector(1))
    found = as_lists(generate(made, tensors, np.array([5.0])))
    assert found == {"x.w": [10, 11], "x.b": [12], "y.w": [20, 21], "y.b": [22]}


def test_per_condition_and_shared_and_kept() -> None:
    made = plan({"w": hl.PerCondition()})
    tensors = {"condition.table": TABLE, "heads.per_condition.table": np.array([[1.0, 2], [3, 4]])}
    assert as_lists(generate(made, tensors, 1)) == {"w": [[3], [4]]}
    made = plan({"b": hl.Shared()})
    found = generate(made, {"condition.table": TABLE, "heads.shared.row": np.array([6.0])}, 1)
    assert as_lists(found) == {"b": [6.0]}


def test_delta_is_added_to_the_base() -> None:
    made = plan({"b": hl.Shared()}, form=hl.Delta())
    tensors = {
        "condition.table": TABLE,
        "heads.shared.row": np.array([6.0]),
        "bases.b": np.array([100.0]),
    }
    assert as_lists(generate(made, tensors, 0)) == {"b": [106.0]}


def test_concat_puts_its_parts_side_by_side() -> None:
    condition = hl.Concat(hl.Vector(1), hl.Concat(hl.Embedding(2, 2), hl.Noise(1)))
    made = plan(None, ONE, condition=condition)
    assert made.num_ids == 2
    tensors = {
        "condition.parts.1.parts.0.table": TABLE,
        "heads.full.weight": np.array([[1.0, 0, 0, 0], [0, 1, 10, 100]]),
        "heads.full.bias": np.zeros(2),
    }
    found = generate(made, tensors, (np.array([7.0]), (1, np.array([9.0]))))
    assert as_lists(found) == {"w": [7.0, 3 + 40 + 900]}
    looked_up = plan({"w": hl.PerCondition()}, ONE, condition=condition)
    rows = {**tensors, "heads.per_condition.table": np.array([[1.0, 2], [3, 4]])}
    value = (np.array([7.0]), (1, np.array([9.0])))
    assert as_lists(generate(looked_up, rows, value)) == {"w": [3, 4]}


# ---- trunks --------------------------------------------------------------------------------------

IDENTITY = {
    "trunks.0.0.weight": np.eye(2),
    "trunks.0.0.bias": np.array([0.0, -1.0]),
    "heads.full.weight": np.eye(2),
    "heads.full.bias": np.zeros(2),
}


def through(vector: list[float], trunk: hl.MLP, **tensors: np.ndarray) -> np.ndarray:
    """Return what a trunk of one layer makes of a vector from which it first takes (0, 1)."""
    made = plan(None, ONE, trunk, condition=hl.Vector(2))
    return generate(made, {**IDENTITY, **tensors}, np.array(vector))["w"]


@pytest.mark.parametrize(
    ("activation", "at"),
    [
        ("relu", lambda x: max(x, 0.0)),
        ("leaky_relu", lambda x: x if x > 0 else 0.01 * x),
        ("elu", lambda x: x if x > 0 else math.exp(x) - 1),
        ("gelu", lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
        ("silu", lambda x: x / (1 + math.exp(-x))),
        ("tanh", math.tanh),
        ("sigmoid", lambda x: 1 / (1 + math.exp(-x))),
        ("softplus", lambda x: math.log1p(math.exp(x))),
    ],
)
def test_activations(activation: str, at: Any) -> None:
    found = through([1.5, 0.25], hl.MLP(2, activation=activation, norm=None))
    np.testing.assert_allclose(found, [at(1.5), at(-0.75)], rtol=1e-12)


def test_norms() -> None:
    found = through([3.0, 5.0], hl.MLP(2, norm="rms"))
    np.testing.assert_allclose(found, np.array([3.0, 4.0]) / math.sqrt(12.5), rtol=1e-6)
    affine = {"trunks.0.0.norm_weight": np.array([2.0, 2]), "trunks.0.0.norm_bias": np.ones(2)}
    found = through([3.0, 6.0], hl.MLP(2, norm="layer"), **affine)
    # (3, 5) is (-1, 1) after the norm, (-1, 3) after scale and shift, (0, 3) after ReLU.
    np.testing.assert_allclose(found, [0.0, 3.0], atol=1e-4)


def test_two_layers() -> None:
    tensors = {
        **IDENTITY,
        "trunks.0.1.weight": np.array([[1.0, 1.0]]),
        "trunks.0.1.bias": np.array([0.5]),
        "heads.full.weight": np.array([[1.0], [2.0]]),
    }
    made = plan(None, ONE, hl.MLP(2, 1, norm=None), condition=hl.Vector(2))
    assert as_lists(generate(made, tensors, np.array([3.0, 5.0]))) == {"w": [7.5, 15.0]}


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ({"condition": hl.Custom(2)}, "a condition that NumPy can compute"),
        ({"trunk": hl.CustomTrunk(2)}, "a trunk that NumPy can compute"),
        ({"trunk": hl.MLP(2, norm="batch")}, "a trunk that NumPy can compute"),
    ],
)
def test_what_needs_a_framework_is_refused(choices: dict[str, Any], text: str) -> None:
    made = plan(None, ONE, **{"condition": hl.Vector(2), **choices})
    with pytest.raises(TypeError, match=rf"^plan: got .*; wanted {text}\.$"):
        generate(made, IDENTITY, np.zeros(2))
