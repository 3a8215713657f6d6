"""`Plan`: frozen, hashable, printable; sizes known before anything is allocated."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given

import hyperloom as hl
from hyperloom import Role, TargetSpec, TensorSpec
from hyperloom._core.tables import human
from tests.core.specs import LAYOUTS, embedding, linear, mixed, norm, plans, small_mlp, target
from tests.golden.golden import golden_text


def compiled(layout: Any = None, trunk: Any = None, **choices: Any) -> hl.Plan:
    return hl.compile_plan(small_mlp(), hl.Embedding(5, 8), trunk, layout, **choices)


# ---- frozen, hashable ----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_equal_choices_give_equal_plans(layout: hl.Layout) -> None:
    first, second = compiled(layout, hl.MLP(4)), compiled(layout, hl.MLP(4))
    assert first == second
    assert hash(first) == hash(second)
    assert {first: 1}[second] == 1
    assert first != compiled(layout, hl.MLP(5))


@given(plans())
def test_drawn_plans_are_hashable_and_print(plan: hl.Plan) -> None:
    assert hash(plan) == hash(replace(plan))
    assert str(plan) == repr(plan)
    assert str(plan).startswith("Drawn: ")
    # Cached properties change neither.
    before = hash(plan)
    _ = plan.kept, plan.pieces, plan.widths, plan.has_scales
    assert hash(plan) == before
    assert plan == replace(plan)


def test_a_plan_is_frozen() -> None:
    plan = compiled()
    with pytest.raises(FrozenInstanceError):
        plan.trunk = hl.MLP(3)  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        plan.heads[0].slot_size = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        plan.pieces[0].start = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "choice",
    [
        hl.Full(),
        hl.Chunked(3),
        hl.Delta(),
        hl.MLP(4),
        hl.Embedding(3, 4),
        hl.HyperfanIn(),
        hl.Tiles(),
    ],
)
def test_a_choice_is_frozen(choice: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        choice.size = 3


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (hl.Full(), "Full()"),
        (hl.Chunked(2000), "Chunked(2000)"),
        (
            hl.Chunked(20, embedding=8, per_condition=True),
            "Chunked(20, embedding=8, per_condition=True)",
        ),
        (hl.Grouped(unit=hl.Tiles(16)), "Grouped(unit=Tiles(smallest=16))"),
        (hl.Embedding(5, 32), "Embedding(5, 32)"),
        (hl.Noise(3, std=2.0), "Noise(3, std=2.0)"),
        (hl.Concat(hl.Embedding(5, 2), hl.Vector(3)), "Concat(Embedding(5, 2), Vector(3))"),
        (hl.MLP(100, 50), "MLP(100, 50)"),
        (
            hl.MLP(10, activation="tanh", dropout=0.1, norm=None),
            "MLP(10, activation='tanh', dropout=0.1, norm=None)",
        ),
        (hl.Delta(trained=True), "Delta(trained=True)"),
        (hl.HyperfanIn(relu=False), "HyperfanIn(relu=False)"),
    ],
)
def test_a_choice_prints_as_it_was_written(choice: object, text: str) -> None:
    assert repr(choice) == text
    assert eval(text, dict(vars(hl))) == choice


# ---- sizes, by hand ------------------------------------------------------------------------------
# The target has 26 numbers; the condition is Embedding(5, 8), 40 numbers; the trunk MLP(16):
# 8 * 16 + 16 = 144 without slot embeddings, 12 * 16 + 16 = 208 beside embeddings of width 4.


@pytest.mark.parametrize(
    ("layout", "numbers"),
    [
        (hl.Full(), 40 + 144 + 26 * 17),
        # 3 chunks of 10.
        (hl.Chunked(10, embedding=4), 40 + 208 + 10 * 17 + 3 * 4),
        (hl.Chunked(10, embedding=4, per_condition=True), 40 + 208 + 10 * 17 + 5 * 3 * 4),
        # Four tensors of four shapes.
        (hl.Grouped(embedding=4), 40 + 208 + (12 + 4 + 8 + 2) * 17 + 4 * 4),
        # Two layers.
        (hl.Grouped(embedding=4, unit=hl.Layers()), 40 + 208 + (16 + 10) * 17 + 2 * 4),
        # gcd of (4, 3) and (2, 4) is (2, 1): 6 + 4 tiles of 2; of (4,) and (2,) is (2,): 2 + 1.
        (hl.Grouped(embedding=4, unit=hl.Tiles(2)), 40 + 208 + 2 * 17 + 10 * 4 + 2 * 17 + 3 * 4),
        # No head needs features, so there is no trunk.
        (hl.PerCondition(), 40 + 5 * 26),
        (hl.Shared(), 40 + 26),
        # The last layer of 10 numbers stays the target's own.
        ({"0.*": hl.Full()}, 40 + 144 + 16 * 17),
        # Heads without and with slot embeddings need a trunk each.
        (
            {"0.*": hl.Full(), "2.weight": hl.Chunked(5, embedding=4), "2.bias": hl.Shared()},
            40 + 144 + 208 + 16 * 17 + 5 * 17 + 2 * 4 + 2,
        ),
    ],
    ids=lambda v: str(v) if not isinstance(v, dict) else "mix",
)
def test_learned_numbers_by_hand(layout: Any, numbers: int) -> None:
    plan = compiled(layout, hl.MLP(16))
    assert plan.num_parameters == numbers
    assert plan.parameter_bytes() == 4 * numbers
    assert plan.parameter_bytes(itemsize=2) == 2 * numbers
    assert plan.compression == numbers / 26


def test_generated_numbers_by_hand() -> None:
    plan = compiled({"0.*": hl.Full()})
    assert (plan.num_target_parameters, plan.num_generated) == (26, 16)
    assert plan.output_bytes() == 16 * 4
    assert plan.output_bytes(num_conditions=3) == 3 * 16 * 4
    assert plan.output_bytes(3, itemsize=8) == 3 * 16 * 8
    assert plan.kept == ("2.weight", "2.bias")


@pytest.mark.parametrize(
    ("trunk", "numbers"),
    [
        (None, 40 + 26 * 9),
        (hl.MLP(16, 6), 40 + 144 + 16 * 6 + 6 + 26 * 7),
        (hl.MLP(16, norm=None), 40 + 144 + 26 * 17),
        (hl.MLP(16, norm="layer"), 40 + 144 + 32 + 26 * 17),
        (hl.MLP(16, norm="batch"), 40 + 144 + 32 + 26 * 17),
        (hl.CustomTrunk(16, size=1000), 40 + 1000 + 26 * 17),
    ],
    ids=repr,
)
def test_learned_numbers_of_trunks(trunk: Any, numbers: int) -> None:
    assert compiled(None, trunk).num_parameters == numbers


@pytest.mark.parametrize(
    ("condition", "numbers", "num_ids"),
    [
        (hl.Embedding(5, 8), 40 + 26 * 9, 5),
        (hl.Vector(8), 26 * 9, None),
        (hl.Noise(8), 26 * 9, None),
        (hl.Custom(8, size=100), 100 + 26 * 9, None),
        (hl.Concat(hl.Embedding(5, 6), hl.Vector(2)), 30 + 26 * 9, 5),
        (hl.Concat(hl.Embedding(5, 6), hl.Embedding(3, 2)), 36 + 26 * 9, None),
    ],
    ids=repr,
)
def test_learned_numbers_of_conditions(
    condition: hl.Condition, numbers: int, num_ids: int | None
) -> None:
    plan = hl.compile_plan(small_mlp(), condition)
    assert plan.num_parameters == numbers
    assert plan.num_ids == num_ids


def test_a_trained_base_is_learned_too() -> None:
    assert compiled(form=hl.Delta()).num_parameters == 40 + 26 * 9
    assert compiled(form=hl.Delta(trained=True)).num_parameters == 40 + 26 * 9 + 26
    some = compiled(form={"0.weight": hl.Delta(trained=True)})
    assert some.num_parameters == 40 + 26 * 9 + 12


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout", [hl.PerCondition(), hl.Chunked(3, per_condition=True), hl.Grouped(per_condition=True)]
)
@pytest.mark.parametrize(
    "condition", [hl.Vector(3), hl.Concat(hl.Embedding(3, 2), hl.Embedding(3, 2))]
)
def test_ids_are_needed_for_look_ups(layout: hl.Layout, condition: hl.Condition) -> None:
    with pytest.raises(
        ValueError, match=r"^layout: got .* heads that look up a condition id; "
    ) as e:
        hl.compile_plan(small_mlp(), condition, layout=layout)
    assert f"wanted a condition with one set of ids, not {condition}. Use Embedding" in str(e.value)


@pytest.mark.parametrize("dtype", ["complex64", "int64", "bool"])
def test_only_real_floating_tensors_are_generated(dtype: str) -> None:
    spec = TargetSpec("Net", (TensorSpec("w", (3,), dtype=dtype), TensorSpec("b", (3,))))
    wanted = (
        rf"^target: got 'w' of dtype {dtype}; wanted real floating-point tensors to generate\. "
        r"Leave it out of the layout's patterns: it then keeps the target's values\.$"
    )
    with pytest.raises(TypeError, match=wanted):
        hl.compile_plan(spec, hl.Vector(3))
    assert hl.compile_plan(spec, hl.Vector(3), layout={"b": hl.Full()}).kept == ("w",)


@pytest.mark.parametrize(("mean", "std"), [(float("nan"), 1.0), (0.0, float("inf"))])
def test_a_target_with_nan_has_no_start(mean: float, std: float) -> None:
    spec = TargetSpec("Net", (TensorSpec("w", (3,), mean=mean, std=std),))
    with pytest.raises(ValueError, match=r"^target: got NaN or infinite values in 'w'; wanted fin"):
        hl.compile_plan(spec, hl.Vector(3))
    hl.compile_plan(spec, hl.Vector(3), init=hl.Unscaled())


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ({"condition": 3}, "condition: got 3; wanted a condition object (Embedding, Vector, Noise"),
        ({"condition": hl.Vector}, "condition: got the class Vector; wanted a condition object ("),
        (
            {"trunk": "mlp"},
            "trunk: got 'mlp'; wanted a trunk object (MLP(*widths), Transformer(width)) or None.",
        ),
        ({"trunk": hl.MLP}, "trunk: got the class MLP; wanted a trunk object (MLP(*widths), "),
        ({"init": "native"}, "init: got 'native'; wanted an init object (Native, HyperfanIn, "),
        ({"init": hl.Native}, "init: got the class Native; wanted an init object (Native, Hyper"),
    ],
)
def test_what_is_no_choice_is_refused(choices: dict[str, Any], text: str) -> None:
    choices = {"condition": hl.Vector(3), **choices}
    with pytest.raises(TypeError) as caught:
        hl.compile_plan(small_mlp(), **choices)
    assert str(caught.value).startswith(text)
    hint = [f"Call it: {v.__name__}(...)." for v in choices.values() if isinstance(v, type)]
    assert str(caught.value).endswith(hint[0] if hint else ".")


# ---- printing ------------------------------------------------------------------------------------


def test_numbers_for_people() -> None:
    cases = {0: "0", 950: "950", 12_345: "12.3 k", 4_560_000: "4.56 M", 2.5e9: "2.5 G"}
    assert {n: human(n) for n in cases} == cases
    assert human(1536, "B") == "1.54 kB"
    assert human(12, "B") == "12 B"


def _language_model() -> hl.Plan:
    """Ties, norms, a mix, a delta, kept tensors, ids that have embeddings of their own."""
    tied = replace(embedding("embedding", 50, 16)[0], aliases=("head.weight",))
    bias = TensorSpec("head.bias", (50,), Role.BIAS, 16, 50, "head", std=0.1)
    spec = target([tied], linear("fc", 16, 32), norm("norm", 32), linear("out", 32, 16), [bias])
    layout = {
        "norm.*": hl.PerCondition(),
        "*.weight": hl.Chunked(200, embedding=8, per_condition=True),
        "fc.bias": hl.Shared(),
    }
    condition = hl.Concat(hl.Embedding(7, 8), hl.Vector(4))
    return hl.compile_plan(spec, condition, hl.MLP(24), layout, {"head.weight": hl.Delta()})


DRAWN = {
    "full": lambda: compiled(),
    "chunked": lambda: compiled(hl.Chunked(10, embedding=4), hl.MLP(16, activation="tanh")),
    "tiles": lambda: hl.compile_plan(
        mixed(),
        hl.Noise(6),
        hl.MLP(8),
        hl.Grouped(embedding=4, unit=hl.Tiles(smallest=4)),
        init=hl.HyperfanIn(),
    ),
    "mix": _language_model,
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_plan_draws_itself(name: str) -> None:
    drawn = str(DRAWN[name]())
    assert drawn == golden_text(f"plan-{name}.txt", drawn)


def test_a_long_plan_is_cut() -> None:
    layers = [linear(f"layers.{i}", 4, 4) for i in range(20)]
    drawn = str(hl.compile_plan(target(*layers), hl.Vector(3)))
    assert "... and 29 more" in drawn
    assert len(drawn.splitlines()) < 20
