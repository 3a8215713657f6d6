"""Plans as JSON and back: every class, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

import hyperloom as hl
from hyperloom._core.checkpoint import json as described
from hyperloom._core.checkpoint.json import from_json, to_json
from hyperloom._core.choices.layouts import Piece, Placement
from hyperloom._core.records import Bank, Part, Start
from tests.core.specs import INITS, LAYOUTS, mixed, plans, small_mlp


def round_trip(value: Any) -> Any:
    return from_json(json.loads(json.dumps(to_json(value))))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("form", [hl.Whole(), hl.Delta(), hl.Delta(trained=True)], ids=repr)
def test_a_plan_comes_back_equal(layout: hl.Layout, form: hl.Form) -> None:
    condition = hl.Concat(hl.Embedding(3, 4), hl.Noise(2), hl.Custom(3, "Encoder", 17))
    plan = hl.compile_plan(mixed(), condition, hl.MLP(5, norm="layer"), layout, form)
    again = round_trip(plan)
    assert again == plan
    assert hash(again) == hash(plan)
    assert str(again) == str(plan)
    assert again.num_parameters == plan.num_parameters


@given(plans())
def test_a_drawn_plan_comes_back_equal(plan: hl.Plan) -> None:
    again = round_trip(plan)
    assert again == plan
    assert hash(again) == hash(plan)
    assert str(again) == str(plan)


START = Start(0.1, 0.2)
PART = Part("w", "", "w", hl.Role.WEIGHT, (2, 3), START)
PIECE = Piece(0, 0, (2, 3), (1, 1))
PLAN = hl.compile_plan(mixed(), hl.Embedding(3, 4), layout=hl.Grouped(unit=hl.Tiles(4)))
EXAMPLES = [
    *LAYOUTS.values(),
    *INITS,
    hl.BiasHyperInit(),
    hl.PerConditionStatistics(also="*.codebook"),
    hl.SharedStatistics(),
    hl.BatchStatistics(),
    hl.Tensors(),
    hl.Layers(),
    hl.Tiles(7),
    hl.Whole(),
    hl.Delta(trained=True),
    hl.LoRA(2, alpha=0.5),
    hl.LowRank(2),
    hl.Scale(inputs=True),
    hl.Shift(),
    hl.RankOne(trained=True),
    hl.Templates(3),
    hl.Embedding(3, 4, std=0.1),
    hl.Ids(3),
    hl.CosSin(2),
    hl.Vector(3, std=2.0),
    hl.Noise(3),
    hl.Custom(3, "Encoder", 17),
    hl.Ids(3),
    hl.Recurrent(3, 4, cell="lstm"),
    hl.CustomRecurrent(3, "Encoder", 17),
    hl.Ids(3),
    hl.Given(),
    hl.Concat(hl.Vector(2), hl.Concat(hl.Embedding(2, 3), hl.Noise(2))),
    hl.Linear(),
    hl.MLP(3, 4, activation="gelu", dropout=0.1, norm=None, spectral=True),
    hl.MLP(3, norm="batch", per_condition=True),
    hl.Deconv((9, 6), (4, 2), (3, (1, 5)), (0,), "tanh", "batch", spectral=True),
    hl.Deconv((9, 6)).steps[0],
    hl.Direct(54, 3, per_condition=True),
    hl.CustomTrunk(3, "Trunk", 5),
    START,
    PART,
    Bank((3, 2, 2), 0.5),
    PIECE,
    Placement(PLAN.heads[0], ((PART, PIECE),)),
    PLAN,
]
# Nobody makes one of these.
BASES = {
    "Statistics",
    "Condition",
    "Form",
    "Init",
    "Layout",
    "Trunk",
    "OnBase",
    "_Hyperfan",
    "Structure",
}


@pytest.mark.parametrize(
    "example", EXAMPLES, ids=[f"{type(e).__name__}-{i}" for i, e in enumerate(EXAMPLES)]
)
def test_every_object_comes_back_equal(example: Any) -> None:
    again = round_trip(example)
    assert type(again) is type(example)
    # Part's role is a plain string in JSON: only what plans hold gets its enum back.
    assert again == example
    assert repr(again) == repr(example) or isinstance(example, (Part, Placement))


def _names(data: Any) -> set[str]:
    if isinstance(data, list):
        return set().union(*map(_names, data))
    if not isinstance(data, dict):
        return set()
    return {data["is"]} | set().union(*map(_names, data.values()))


def test_no_class_is_forgotten_above() -> None:
    seen = set().union(*(_names(to_json(example)) for example in EXAMPLES))
    assert seen == set(described._CLASSES) - BASES


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"is": "Elsewhere"},
            r"^checkpoint: got a 'Elsewhere' object; wanted objects known here\.$",
        ),
        ({"no": "class"}, r"^checkpoint: got a None object; wanted objects known here\.$"),
        (
            {"is": "Vector", "dim": 3},
            r"^checkpoint: got a Vector with fields \['dim'\]; wanted fields \['dim', 'std'\]\.$",
        ),
        (
            {"is": "Full", "size": 3},
            r"^checkpoint: got a Full with fields \['size'\]; wanted fields \[\]\.$",
        ),
    ],
)
def test_what_this_version_does_not_know_is_refused(data: Any, text: str) -> None:
    with pytest.raises(hl.CheckpointError, match=text):
        from_json(data)


def test_no_class_of_python_can_be_made() -> None:
    for name in ("int", "object", "Path", "Popen", "HyperNetwork"):
        with pytest.raises(hl.CheckpointError):
            from_json({"is": name})


def test_json_of_a_plan_is_plain() -> None:
    text = json.dumps(to_json(hl.compile_plan(small_mlp(), hl.Vector(2))), allow_nan=False)
    assert '"role": "bias"' in text
