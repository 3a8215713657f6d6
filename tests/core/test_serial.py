"""Plans as JSON and back: every class, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

import pytest
from hypothesis import given

import hyperloom as hl
from hyperloom._core import choice
from hyperloom._core.checkpoint import json as described
from hyperloom._core.checkpoint.json import from_json, to_json
from hyperloom._core.choices.layouts import Piece, Placement
from hyperloom._core.records import Bank, Orthogonals, Part, Start
from tests.core.specs import INITS, LAYOUTS, linear, mixed, plans, small_mlp, target


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
SHAPE = hl.OfShape()
PLAN = hl.compile_plan(mixed(), hl.Embedding(3, 4), layout=hl.Grouped(unit=hl.Tiles(4)))
TOLD = hl.compile_plan(
    mixed(), hl.Embedding(3, 4), layout=hl.Grouped(hl.SlotSum(5, hl.OfModule(), SHAPE))
)
EXAMPLES = [
    *LAYOUTS.values(),
    *INITS,
    hl.BiasHyperInit(),
    hl.Orthogonal(1.5),
    Orthogonals((2, 3), (0,), 1.5),
    hl.PerConditionStatistics(also="*.codebook"),
    hl.SharedStatistics(),
    hl.BatchStatistics(),
    hl.Tensors(),
    hl.Layers(),
    hl.Tiles(7),
    hl.Modules(),
    hl.Largest(7),
    hl.Ranks(),
    hl.SlotSum(4, hl.OfLayer(), hl.OfModule(), hl.OfRole(), hl.OfBlock(True), hl.OfShape()),
    hl.PerModule(2, 3),
    hl.PerModule(2, 3, rank=4),
    TOLD,
    hl.Whole(),
    hl.Delta(trained=True),
    hl.LoRA(2, alpha=0.5),
    hl.LoRA(2, rslora=True),
    hl.DoRA(2, trained=True),
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
    hl.Context(3, std=0.5),
    hl.MeanPool(3),
    hl.AttentionPool(3, 4, 2),
    hl.Linear(),
    hl.Perceiver(8, 3, 1, 2, 5, "relu"),
    hl.Transformer(8, 1, 2, 5, "relu", "post"),
    hl.MLP(3, 4, activation="gelu", dropout=0.1, norm=None, spectral=True),
    hl.MLP(3, norm="batch", per_condition=True),
    hl.Deconv((9, 6), (4, 2), (3, (1, 5)), (0,), "tanh", "batch", spectral=True),
    hl.Direct(54, 3, per_condition=True),
    hl.CustomTrunk(3, "Trunk", 5),
    START,
    PART,
    Bank((3, 2, 2), 0.5),
    PIECE,
    Placement(PLAN.heads[0], ((PART, PIECE),)),
    PLAN,
]
# Nobody makes one of these; `Step` follows from a `Deconv`.
BASES = {
    "Statistics",
    "Condition",
    "Form",
    "Init",
    "Layout",
    "Trunk",
    "OnBase",
    "_Hyperfan",
    *("Elements", "Numbered", "SlotEmbedding", "SlotPart"),
    "Unit",
}


@pytest.mark.parametrize(
    "example", EXAMPLES, ids=[f"{type(e).__name__}-{i}" for i, e in enumerate(EXAMPLES)]
)
def test_every_object_comes_back_equal(example: Any) -> None:
    again = round_trip(example)
    assert type(again) is type(example)
    assert again == example
    assert repr(again) == repr(example)


def _names(data: Any) -> set[str]:
    if isinstance(data, list):
        return set().union(*map(_names, data))
    if not isinstance(data, dict):
        return set()
    return {data["is"]} | set().union(*map(_names, data.values()))


def test_no_class_is_forgotten_above() -> None:
    seen = set().union(*(_names(to_json(example)) for example in EXAMPLES))
    own = [cls for cls in choice._DEFINED.values() if choice.of_library(cls)]
    written = {cls.__name__ for cls in own if cls is not hl.Execution}
    assert seen == (written | set(described._RECORDS)) - BASES


# ---- files of other versions ---------------------------------------------------------------------

# The fields that every file has. A field that comes later has a default, or the files that there
# are cannot be read any more: nothing may be added here.
REQUIRED = {
    "AttentionPool": {"dim"},
    "Bank": {"shape", "std"},
    "Chunked": {"size"},
    "Concat": {"parts"},
    "Context": {"dim"},
    "CosSin": {"dim"},
    "Custom": {"dim"},
    "CustomRecurrent": {"dim"},
    "CustomTrunk": {"width"},
    "Deconv": {"image", "filters", "kernel"},
    "Direct": {"size"},
    "DoRA": {"rank"},
    "Elements": {"dim"},
    "Embedding": {"num", "dim"},
    "Entry": {"tensor", "form", "pieces"},
    "Head": {
        *("name", "source", "num_slots", "slot_size", "num_used", "embedding"),
        *("per_condition", "scaled", "signs", "segments"),
    },
    "Ids": {"num", "dim"},
    "LoRA": {"rank"},
    "LowRank": {"rank"},
    "Lookup": {"table", "rows"},
    "MLP": {"widths"},
    "MeanPool": {"dim"},
    "Noise": {"dim"},
    "Part": {"tensor", "layer", "label", "role", "shape", "start"},
    "Piece": {"head", "start", "tile", "grid"},
    "Placement": {"head", "pieces"},
    "Plan": {"spec", "condition", "trunk", "heads", "entries"},
    "Recurrent": {"dim", "hidden"},
    "Segment": {"start", "stop", "mean", "std"},
    "TargetSpec": {"name", "tensors"},
    "Templates": {"num"},
    "TensorSpec": {"name", "shape"},
    "Vector": {"dim"},
    "SlotSum": {"size", "parts"},
    "Orthogonals": {"gain", "out_axes", "shape"},
    "SlotTable": {"name", "values", "width"},
    "Perceiver": {"width"},
    "Transformer": {"width"},
}


def test_a_field_that_comes_later_has_a_default() -> None:
    own = [cls for cls in choice._DEFINED.values() if choice.of_library(cls)]
    found = {
        cls.__name__: {
            f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING
        }
        for cls in (*own, *described._RECORDS.values())
        if is_dataclass(cls)
    }
    assert {name: required for name, required in found.items() if required} == REQUIRED


def _objects(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, list):
        for item in data:
            yield from _objects(item)
    if isinstance(data, dict):
        yield data
        for value in data.values():
            yield from _objects(value)


def test_a_file_that_lacks_newer_fields_has_their_defaults() -> None:
    spec = target(linear("fc", 3, 4))
    plan = hl.compile_plan(spec, hl.Embedding(3, 4), hl.MLP(5), hl.Full(), {"*.weight": hl.LoRA(1)})
    data = json.loads(json.dumps(to_json(plan)))
    for made in _objects(data):
        for name in set(made) - REQUIRED.get(made["is"], set()) - {"is"}:
            cls: Any = described._class_of(made, "checkpoint")
            default = {f.name: f.default for f in fields(cls)}[name]
            if made[name] == to_json(default):
                del made[name]
    assert "std" not in data["condition"]
    assert "activation" not in data["trunk"]
    assert from_json(data) == plan


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"is": "Elsewhere"},
            "checkpoint: got a 'Elsewhere' object; wanted objects known here.",
        ),
        ({"no": "class"}, "checkpoint: got a None object; wanted objects known here."),
        (
            {"is": "Vector", "std": 3.0},
            "checkpoint: got a Vector without its field 'dim'; wanted the fields ['dim', 'std'].",
        ),
        (
            {"is": "Full", "size": 3},
            "checkpoint: got Full.size, a field that this version does not know; wanted the fields "
            "[]. Install the hyperloom that wrote the file.",
        ),
        (
            {"is": "Vector", "dim": "3"},
            "checkpoint: got Vector.dim='3'; wanted a value of type int.",
        ),
        (
            {"is": "Vector", "dim": True},
            "checkpoint: got Vector.dim=True; wanted a value of type int.",
        ),
        (
            {"is": "Vector", "dim": 0},
            "checkpoint: got a Vector that is refused (Vector(dim=): got 0; wanted an int of at "
            "least 1.); wanted values as save() wrote them.",
        ),
        (
            {"is": "Bank", "shape": [2, 0.5], "std": 1.0},
            "checkpoint: got Bank.shape=(2, 0.5); wanted a value of type tuple[int, ...].",
        ),
        (
            {"is": "Gated", "from": "somewhere.else"},
            "checkpoint: got a 'Gated' of somewhere.else, a class that is not defined here; wanted "
            "a class 'Gated'. Define it, or import the module that does (somewhere.else), before "
            "loading.",
        ),
        (
            {"is": "Full", "from": "somewhere"},
            "checkpoint: got a 'Full' of somewhere, a class that is not defined here; wanted a ",
        ),
    ],
)
def test_what_this_version_does_not_know_is_refused(data: Any, text: str) -> None:
    with pytest.raises(hl.CheckpointError, match=f"^{re.escape(text)}"):
        from_json(data)


def test_no_class_of_python_can_be_made() -> None:
    for name in ("int", "object", "Path", "Popen", "HyperNetwork"):
        with pytest.raises(hl.CheckpointError):
            from_json({"is": name})


def test_json_of_a_plan_is_plain() -> None:
    text = json.dumps(to_json(hl.compile_plan(small_mlp(), hl.Vector(2))), allow_nan=False)
    assert '"role": "bias"' in text


# ---- classes of the user's own -------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Doubled(hl.Form):
    """A form of the user's own."""

    factor: float = 2.0
    others: tuple[str, ...] = ()


def test_a_class_of_the_users_own_is_found_by_name_and_module() -> None:
    form = Doubled(3.0, ("a", "b"))
    data = to_json(form)
    assert data == {"is": "Doubled", "from": __name__, "factor": 3.0, "others": ["a", "b"]}
    assert from_json(data) == form
    # Saved by a script, and loaded where the script is imported as a module.
    assert from_json({**data, "from": "__main__"}) == form


def test_a_name_that_stands_for_several_classes_is_refused() -> None:
    def one() -> type:
        class Twice(hl.Form):
            pass

        return Twice

    def two() -> type:
        class Twice(hl.Form):
            pass

        return Twice

    assert one() is not two()
    text = "checkpoint: got a 'Twice' of .*, of which there are several here; wanted one class of"
    with pytest.raises(hl.CheckpointError, match=text):
        from_json({"is": "Twice", "from": __name__})


@dataclass(frozen=True, repr=False)
class Holding(hl.Form):
    """A form with a field that JSON does not have."""

    function: Any = field(default=abs)


class Bare(hl.Form):
    """A form that is no dataclass and keeps something."""

    def __init__(self, width: int) -> None:
        object.__setattr__(self, "width", width)


def test_what_could_not_be_read_again_is_not_written() -> None:
    text = r"checkpoint: got <built-in function abs> in Holding.function; wanted numbers, strings"
    with pytest.raises(TypeError, match=text):
        to_json(Holding())
    text = (
        r"checkpoint: got a Bare with an attribute 'width' that is no field; wanted fields only\. "
        r"Decorate Bare with @dataclass\(frozen=True\), and annotate width\."
    )
    with pytest.raises(TypeError, match=text):
        to_json(Bare(3))


@pytest.mark.parametrize(
    ("base", "text"),
    [
        (hl.Whole, "got a subclass of Whole, which is final; wanted a subclass of Form."),
        (hl.LoRA, "got a subclass of LoRA, which is final; wanted a subclass of Form."),
        (hl.Chunked, "got a subclass of Chunked, which is final; wanted a subclass of Layout."),
        (
            hl.MLP,
            "got a subclass of MLP, which is final; wanted no subclass of it. Give a module of "
            "your framework as trunk.",
        ),
        (
            hl.Trunk,
            "got a subclass of Trunk, which is final; wanted no subclass of it. Give a module of "
            "your framework as trunk.",
        ),
        (
            hl.Vector,
            "got a subclass of Vector, which is final; wanted no subclass of it. Give a module of "
            "your framework as condition.",
        ),
        (
            hl.SharedStatistics,
            "got a subclass of SharedStatistics, which is final; wanted no subclass of it.",
        ),
        (hl.Execution, "got a subclass of Execution, which is final; wanted no subclass of it."),
    ],
)
def test_classes_that_are_not_to_be_extended_say_so(base: type, text: str) -> None:
    with pytest.raises(TypeError, match=f"^class Mine: {re.escape(text)}$"):
        type("Mine", (base,), {})
