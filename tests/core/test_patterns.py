"""Mixes by name pattern: first match wins, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

import hyperloom as hl
from hyperloom import TargetSpec, TensorSpec
from hyperloom._core.choices.patterns import resolve
from tests.core.specs import mixed, small_mlp

A, B, C = hl.Full(), hl.Chunked(3), hl.Shared()


def of(choice: Any, spec: TargetSpec | None = None) -> dict[str, hl.Layout]:
    return resolve("layout", choice, hl.Layout, spec or small_mlp())


def tied() -> TargetSpec:
    tensors = (
        TensorSpec("in.weight", (4, 4), aliases=("out.weight",)),
        TensorSpec("out.bias", (4,)),
    )
    return TargetSpec("Tied", tensors)


def test_one_object_is_for_all_tensors() -> None:
    assert of(A) == dict.fromkeys(("0.weight", "0.bias", "2.weight", "2.bias"), A)


def test_the_first_match_wins() -> None:
    found = of({"0.weight": A, "*.weight": B, "*": C})
    assert found == {"0.weight": A, "0.bias": C, "2.weight": B, "2.bias": C}


def test_what_no_pattern_names_is_left_out() -> None:
    assert of({"*.bias": A}) == {"0.bias": A, "2.bias": A}


def test_case_counts_and_brackets_work() -> None:
    spec = TargetSpec("Net", (TensorSpec("Fc.w", (2,)), TensorSpec("fc.w", (2,))))
    assert of({"fc.*": A}, spec) == {"fc.w": A}
    assert of({"[Ff]c.?": A}, spec) == {"Fc.w": A, "fc.w": A}


def test_a_tied_tensor_is_found_by_any_of_its_names() -> None:
    assert of({"out.*": A}, tied()) == {"in.weight": A, "out.bias": A}
    assert of({"in.*": A, "*": B}, tied()) == {"in.weight": A, "out.bias": B}


def test_two_choices_for_one_tied_tensor_are_refused() -> None:
    wanted = (
        "layout: got two choices for one tensor: in.weight and out.weight are tied, 'in.*' and "
        "'out.*' differ; wanted one choice for a tied tensor. Name it once, as 'in.weight'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        of({"in.*": A, "out.*": B}, tied())
    # The same choice twice says nothing new.
    assert of({"in.*": A, "out.*": A}, tied()) == {"in.weight": A, "out.bias": A}


def test_a_shadowed_pattern_is_refused() -> None:
    wanted = (
        "layout: got two choices for the same tensors: '0.weight' names only what '*' has; wanted "
        "at most one for each. The first match wins: reorder."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        of({"*": A, "0.weight": B})


def test_a_pattern_that_names_nothing_is_refused() -> None:
    wanted = (
        "layout: got the pattern '0.wieght', which names no tensor of Sequential; wanted a pattern "
        "that names at least one. Did you mean '0.weight' or '2.weight' or '0.bias'?"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        of({"0.wieght": A})


def test_a_pattern_far_from_all_names_is_answered_with_a_few() -> None:
    with pytest.raises(ValueError, match=r"There are: 'embedding\.weight', .* and 6 more\.$"):
        of({"zzzzz": A}, mixed())


WANTED = "wanted a Layout object or a dict from name patterns to them."


@pytest.mark.parametrize(
    ("choice", "error", "text"),
    [
        ({}, ValueError, f"layout: got an empty dict; {WANTED}"),
        ("full", TypeError, f"layout: got 'full'; {WANTED}"),
        ([A], TypeError, f"layout: got [Full()]; {WANTED}"),
        (hl.Full, TypeError, f"layout: got the class Full; {WANTED} Call it: Full(...)."),
        (hl.Delta(), TypeError, f"layout: got Delta(); {WANTED}"),
        (
            {"*": hl.Full},
            TypeError,
            f"layout: got '*': the class Full; {WANTED} Call it: Full(...).",
        ),
        ({"*": None}, TypeError, f"layout: got '*': None; {WANTED}"),
        ({0: A}, TypeError, f"layout: got 0: Full(); {WANTED}"),
        ({"*": hl.Delta()}, TypeError, f"layout: got '*': Delta(); {WANTED}"),
    ],
)
def test_what_is_no_layout_is_refused(choice: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        of(choice)


def test_a_form_for_what_no_layout_generates_is_refused() -> None:
    wanted = (
        "form: got a form for '2.weight', which no layout generates; wanted forms for generated "
        "tensors only. Add a pattern for it to layout, or narrow the form's pattern."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        hl.compile_plan(small_mlp(), hl.Vector(2), layout={"0.*": A}, form={"*.weight": hl.Delta()})


def test_one_form_for_all_is_for_what_is_generated() -> None:
    plan = hl.compile_plan(small_mlp(), hl.Vector(2), layout={"0.*": A}, form=hl.Delta())
    assert [(e.tensor, e.form) for e in plan.entries] == [
        ("0.weight", hl.Delta()),
        ("0.bias", hl.Delta()),
    ]
    assert plan.kept == ("2.weight", "2.bias")


def compile_frozen(names: frozenset[str], **choices: Any) -> hl.Plan:
    tensors = [TensorSpec(n, (4, 4), frozen=n in names) for n in ("table", "first", "last")]
    return hl.compile_plan(TargetSpec("Partly", tuple(tensors)), hl.Vector(3), **choices)


def test_a_layout_for_all_leaves_frozen_tensors_as_they_are() -> None:
    for layout in (None, hl.Full(), hl.Chunked(5, embedding=2)):
        plan = compile_frozen(frozenset({"table"}), layout=layout)
        assert plan.kept == ("table",)
    assert "│    table 4x4, frozen in the target" in str(plan)


def test_a_pattern_generates_a_frozen_tensor() -> None:
    names = frozenset({"table", "first"})
    assert compile_frozen(names, layout={"*": hl.Full()}).kept == ()
    assert compile_frozen(names, form={"t*": hl.LoRA(1)}).kept == ("first",)
    assert compile_frozen(names, form=hl.LoRA(1)).kept == ("table", "first")


def test_where_all_are_frozen_all_are_generated() -> None:
    plan = compile_frozen(frozenset({"table", "first", "last"}))
    assert plan.kept == ()
    assert "frozen" not in str(plan)
