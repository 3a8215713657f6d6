"""Every public argument of the part without a framework is given every wrong value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

import hyperloom as hl
from tests.wrong_values import (
    BOOLS,
    INTS,
    NOT_NEGATIVE,
    NUMBERS,
    POSITIVE,
    Door,
    arguments,
    knock,
    names,
    public,
)

Spec = hl.TargetSpec(
    "Net",
    (
        hl.TensorSpec("fc.weight", (4, 3), hl.Role.WEIGHT, 3, 4, "fc", std=0.3),
        hl.TensorSpec("fc.bias", (4,), hl.Role.BIAS, 3, 4, "fc"),
    ),
)
PLAN = hl.compile_plan(Spec, hl.Embedding(3, 2))
TENSOR: dict[str, Any] = {
    "name": "fc.weight",
    "shape": (4, 3),
    "role": hl.Role.WEIGHT,
    "fan_in": 3,
    "fan_out": 4,
    "layer": "fc",
    "mean": 0.0,
    "std": 1.0,
    "dtype": "float32",
    "out_axis": 0,
    "in_axis": 1,
    "aliases": (),
    "frozen": False,
}
STRINGS = ("a string", "an empty string")
ANY_NUMBER = (*NUMBERS, "nan", "inf")


def door(
    name: str, good: Mapping[str, Any], legal: Mapping[str, Any] | None = None, **options: Any
) -> Door:
    call = options.pop("call", None) or getattr(hl, name.partition(" ")[0])
    return Door(name, call, lambda: dict(good), legal or {}, **options)


# Sizes have no upper bound but memory: a huge int is a size. Texts that name are free.
DOORS = [
    door(
        "Embedding",
        {"num": 3, "dim": 2, "std": 1.0},
        {"num": INTS, "dim": INTS, "std": NOT_NEGATIVE},
    ),
    door("Ids", {"num": 3}, {"num": INTS}),
    door("Vector", {"dim": 3, "std": 1.0}, {"dim": INTS, "std": POSITIVE}),
    door("Noise", {"dim": 3, "std": 1.0}, {"dim": INTS, "std": POSITIVE}),
    door("CosSin", {"dim": 3}, {"dim": INTS}),
    # A function may be a module of some framework: which are, its backend says.
    door("Concat", {"*parts": (hl.Vector(2), hl.Noise(3))}, {"*parts": ("a function",)}),
    *(
        door(
            name,
            {"dim": 3, "name": "Encoder", "size": 7, "std": 1.0, "context": 2},
            {
                "dim": ("0", *INTS),
                "name": STRINGS,
                "size": ("0", *INTS),
                "std": POSITIVE,
                "context": ("0", *INTS),
            },
        )
        for name in ("Custom", "CustomRecurrent")
    ),
    door(
        "Recurrent",
        {"dim": 3, "hidden": 4, "cell": "gru", "std": 1.0},
        {"dim": INTS, "hidden": INTS, "std": POSITIVE},
    ),
    door("draw", {"plan": PLAN}),
    door("OfLayer", {"sinusoidal": False}, {"sinusoidal": BOOLS}),
    door("OfBlock", {"sinusoidal": False}, {"sinusoidal": BOOLS}),
    door("SlotSum", {"width": 4, "*parts": (hl.OfLayer(),)}, {"width": INTS}),
    door(
        "PerModule",
        {"layer": 2, "module": 3, "rank": 4},
        {"layer": INTS, "module": INTS, "rank": ("0", *INTS)},
    ),
    door("Context", {"dim": 3, "std": 1.0}, {"dim": INTS, "std": POSITIVE}),
    door("MeanPool", {"dim": 3, "std": 1.0}, {"dim": INTS, "std": POSITIVE}),
    door(
        "AttentionPool",
        {"dim": 3, "out": 2, "heads": 1, "std": 1.0},
        {"dim": INTS, "out": ("None", *INTS), "heads": INTS, "std": POSITIVE},
    ),
    door(
        "Perceiver",
        {"width": 4, "tokens": 3, "depth": 2, "heads": 2, "feedforward": 8, "activation": "relu"},
        {
            "width": INTS,
            "tokens": INTS,
            "depth": INTS,
            "heads": INTS,
            "feedforward": ("None", *INTS),
        },
    ),
    door(
        "Transformer",
        {
            "width": 4,
            "depth": 2,
            "heads": 2,
            "feedforward": 8,
            "activation": "relu",
            "norm": "post",
        },
        {"width": INTS, "depth": INTS, "heads": INTS, "feedforward": ("None", *INTS)},
    ),
    door(
        "MLP",
        {
            "*widths": (3, 4),
            "activation": "relu",
            "dropout": 0.1,
            "norm": "batch",
            "spectral": False,
            "per_condition": False,
        },
        {
            "*widths": INTS,
            "dropout": ("0", "0.5"),
            "norm": ("None",),
            "spectral": BOOLS,
            "per_condition": BOOLS,
        },
    ),
    door(
        "Deconv",
        {
            "image": (8, 8),
            "filters": (4, 4),
            "kernel": 3,
            "attention": (0,),
            "activation": "relu",
            "norm": None,
            "spectral": False,
        },
        {
            "kernel": INTS,
            "attention": ("an empty tuple", "an empty list"),  # attention after no layer
            "norm": ("None",),
            "spectral": BOOLS,
        },
    ),
    door(
        "CustomTrunk",
        {"width": 3, "name": "Net", "size": 7, "sees_slots": False},
        {"width": INTS, "name": STRINGS, "size": ("0", *INTS), "sees_slots": BOOLS},
    ),
    door(
        "Chunked",
        {"size": 3, "embedding": 2, "per_condition": False, "signs": True},
        {"size": INTS, "embedding": INTS, "per_condition": BOOLS, "signs": BOOLS},
    ),
    door(
        "Direct",
        {"size": 3, "embedding": 2, "per_condition": False},
        {"size": INTS, "embedding": ("0", *INTS), "per_condition": BOOLS},
    ),
    door(
        "Grouped",
        {"embedding": 2, "unit": hl.Layers(), "per_condition": False, "signs": True},
        {"embedding": INTS, "per_condition": BOOLS, "signs": BOOLS},
    ),
    door("Tiles", {"smallest": 4}, {"smallest": INTS}),
    door("Largest", {"limit": 4}, {"limit": ("None", *INTS)}),
    *(door(name, {"trained": False}, {"trained": BOOLS}) for name in ("Delta", "Shift", "RankOne")),
    door("Scale", {"trained": False, "inputs": False}, {"trained": BOOLS, "inputs": BOOLS}),
    *(
        door(
            name,
            {"rank": 2, "alpha": 4.0, "rslora": False, "trained": False},
            {"rank": INTS, "alpha": ("None", *NUMBERS), "rslora": BOOLS, "trained": BOOLS},
        )
        for name in ("LoRA", "DoRA")
    ),
    door("LowRank", {"rank": 2}, {"rank": INTS}),
    door("Templates", {"num": 2}, {"num": INTS}),
    *(door(name, {"relu": True}, {"relu": BOOLS}) for name in ("HyperfanIn", "HyperfanOut")),
    door("Harmonic", {"relu": True}, {"relu": BOOLS}),
    door("Orthogonal", {"gain": 1.0}, {"gain": NOT_NEGATIVE}),
    door("Unscaled", {"std": 1.0}, {"std": NOT_NEGATIVE}),
    door(
        "PerConditionStatistics",
        {"also": ("codebook.*",)},
        {"also": (*STRINGS, "an empty list", "an empty tuple")},  # patterns that name nothing yet
    ),
    door(
        "Execution",
        {
            "max_memory": 100,
            "recompute": False,
            "strategy": "loop",
            "randomness": "same",
            "ways": {"*": "dense"},
            "check": True,
        },
        {
            "max_memory": ("None", *INTS),
            "recompute": BOOLS,
            "ways": ("None",),
            "check": BOOLS,
        },
    ),
    door(
        "TensorSpec",
        TENSOR,
        {
            "name": STRINGS,
            "fan_in": ("0", *INTS),
            "fan_out": ("0", *INTS),
            "layer": STRINGS,
            "mean": ANY_NUMBER,  # of a target that holds NaN: refused where it is used
            "std": ANY_NUMBER,
            "dtype": STRINGS,
            "out_axis": ("None", "0", "an empty tuple", "an empty list"),
            "in_axis": ("None", "0", "an empty tuple", "an empty list"),
            "frozen": BOOLS,
            "aliases": ("an empty tuple", "an empty list"),
        },
        leads={"shape": r"TensorSpec\((shape|out_axis)=\)"},  # a scalar has no axes
    ),
    door(
        "TargetSpec",
        {"name": "Net", "tensors": Spec.tensors},
        {"name": STRINGS},
        leads={"tensors": r"(TargetSpec\(tensors=\)|target)"},  # none: the user gave a target
    ),
    door("TargetSpec.differences", {"other": Spec}, call=Spec.differences),
    door("TargetSpec.__getitem__", {"name": "fc.bias"}, call=Spec.__getitem__),
    door(
        "compile_plan",
        {
            "spec": Spec,
            "condition": hl.Embedding(3, 2),
            "trunk": hl.MLP(3),
            "layout": {"*.weight": hl.Full()},
            "form": {"*.weight": hl.Whole()},
            "init": hl.Native(),
        },
        dict.fromkeys(("trunk", "layout", "form", "init"), ("None",)),
    ),
    door(
        "translate",
        {"source": Spec, "target": Spec, "names": {"fc": "fc"}},
        {"names": ("None", "an empty dict")},
        leads={"names": "(names|translate)"},  # `load` calls it translate=
    ),
    door(
        "Plan.output_bytes",
        {"num_conditions": 2, "itemsize": 4},
        {"num_conditions": ("0", *INTS), "itemsize": INTS},
        call=PLAN.output_bytes,
    ),
    door("Plan.parameter_bytes", {"itemsize": 4}, {"itemsize": INTS}, call=PLAN.parameter_bytes),
]

# What the library makes and users read; nobody else calls their constructors.
RECORDS = {"Explanation", "Finding", "Plan", "Report", "Start", "Translation"}
# What the library calls with records of its own, and a user's subclass defines.
CALLED_BY_THE_LIBRARY = {
    *("compile", "parts", "structure", "bank", "start", "variance", "out_width"),
    "with_more_ids",
    *("num_parameters", "conditions_at_once", "features", "trunk_index", "fill_caches"),
    *("apply", "state_names"),
    *("lookup", "lookups", "numbers", "value"),
}
# Python's own, with names of ours.
PYTHONS = {"Role", "CheckpointError", "SlowWarning"}
# `Report` and `Explanation` are made by calls of a backend, whose tests have these.
ELSEWHERE = {"Report.about", "Explanation.__getitem__"}


@pytest.mark.parametrize("name", [door.name for door in DOORS])
def test_every_wrong_value_is_named(name: str) -> None:
    found = next(door for door in DOORS if door.name == name)
    spec, plan = repr(Spec), repr(PLAN)
    assert knock(found, lambda: (repr(Spec), repr(PLAN))) == []
    assert (repr(Spec), repr(PLAN)) == (spec, plan)


def test_every_public_argument_has_a_door() -> None:
    assert missing(public(hl), DOORS, ELSEWHERE) == []


def missing(callables: Any, doors: list[Door], elsewhere: set[str]) -> list[str]:
    """Return the public arguments that no door has."""
    known: dict[str, set[str]] = {}
    for one in doors:
        known.setdefault(one.name.partition(" ")[0], set()).update(one.good())
    found = []
    for name, function in callables:
        owner, _, method = name.partition(".")
        if owner in PYTHONS or method in CALLED_BY_THE_LIBRARY or name in elsewhere | RECORDS:
            continue
        found += [f"{name}({a})" for a in sorted(arguments(function) - known.get(name, set()))]
    return found


def accepting(function: Callable[..., Any]) -> Door:
    return Door("f", function, lambda: {"size": 3}, {"size": INTS})


def test_a_door_that_takes_anything_is_seen() -> None:
    """The helper can fail: accepted, not named, named after another, refused though legal."""
    found = knock(accepting(lambda size: None))
    assert "f(size=None): accepted" in found
    assert "f(size=2): accepted" not in found

    def unnamed(size: Any) -> None:
        if size != 3:
            raise ValueError("got something; wanted another thing.")

    found = knock(accepting(unnamed))
    assert "f(size=nan): not named: ValueError: got something; wanted another thing." in found
    assert any(line.startswith("f(size=2): is in the table of legal pairs") for line in found)
    assert not names(RuntimeError("size: got 3; wanted 2."), "size", {})
    assert not names(ValueError("sizes: got 3; wanted 2."), "size", {})
    assert names(ValueError("Chunked(size=): got 3; wanted 2."), "size", {})
    changed: list[int] = []
    assert any(
        "something was changed" in line
        for line in knock(accepting(lambda size: changed.append(1)), lambda: len(changed))
    )
    assert any(
        "an argument was changed" in line
        for line in knock(
            Door("f", lambda size, keys: keys.update(b=2), lambda: {"size": 3, "keys": {"a": 1}})
        )
    )
