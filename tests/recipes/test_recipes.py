"""Every recipe of the list runs small, writes what it says, and has a page with its numbers."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from docs.recipes import IMAGES, PAGES, parts, section
from hyperloom.recipes._frame import measure
from hyperloom.recipes._frame.listed import RECIPES, Recipe
from hyperloom.recipes._frame.run import NUMBERS, Run, running, shown

CORE = 150  # lines of code of a recipe's own
EACH = [(recipe, backend) for recipe in RECIPES for backend in recipe.backends]
# The first one is older than the frame; its own tests run it, and its page is that on continual
# learning.
NEW = [(recipe, backend) for recipe, backend in EACH if recipe.name != "digits"]


def _id(value: Any) -> str:
    return value.name if isinstance(value, Recipe) else value


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("none", tmp_path / "out", Console(record=True, width=100, quiet=True), steps=3)


@pytest.mark.parametrize(("recipe", "backend"), NEW, ids=_id)
def test_a_recipe_runs_small(recipe: Recipe, backend: str, run: Run) -> None:
    run.name, run.backend = recipe.name, backend
    with running(run):
        import_module(recipe.module).demo(run)
    assert {path.name for path in run.out.iterdir()} == set(run.files)
    assert any(name.endswith(".png") for name in run.files)
    numbers = json.loads((run.out / NUMBERS).read_text("utf-8"))
    assert numbers["claims"]
    assert numbers["tables"]["Beside the same by hand"]
    assert numbers["same_function"]["largest_difference"] < 1e-4
    assert not run.failed


@pytest.mark.parametrize(("recipe", "backend"), NEW, ids=_id)
def test_the_core_of_a_recipe_is_short(recipe: Recipe, backend: str) -> None:
    module = import_module(f"{recipe.module.rpartition('.')[0]}.{backend}")
    assert measure.lines_of(module) <= CORE


@pytest.mark.parametrize("recipe", dict.fromkeys(recipe for recipe, _ in NEW), ids=_id)
def test_the_page_of_a_recipe_has_its_numbers(recipe: Recipe) -> None:
    page = PAGES / f"{recipe.name}.md"
    numbers = json.loads(page.with_suffix(".json").read_text("utf-8"))
    before, between, _ = parts(page)
    assert between == section(numbers)
    assert numbers["recipe"] == recipe.name
    assert numbers["options"]["steps"] is None, "a page shows a whole run"
    assert "](../images/gallery/" in before.split("\n\n")[1], "the picture comes first"
    assert f"hyperloom demo {recipe.name}" in before
    for name in numbers["files"]:
        if name.endswith((".png", ".gif")):
            assert (IMAGES / f"{recipe.name}-{name}").stat().st_size <= 300_000


# ---- what recipes share ----------------------------------------------------------------------


def commented(x: int) -> int:
    """Not counted."""
    # Nor this.

    return (
        x
        + 1
    )  # fmt: skip


def test_lines_are_those_of_code() -> None:
    assert measure.lines_of(commented) == 2


def test_steps_take_turns_and_the_first_two_do_not_count() -> None:
    order: list[str] = []
    ms = measure.ms_of({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, times=3)
    assert order == ["a", "b"] * 5
    assert set(ms) == {"a", "b"}
    assert all(0 <= value < 1000 for value in ms.values())


def test_a_run_writes_what_it_was_told(run: Run) -> None:
    from matplotlib.figure import Figure

    with running(run):
        assert list(run.train("training", 100)) == [0, 1, 2]
        run.table("Numbers", {"a": {"x": 1, "y": 0.123456789}, "b": {"x": 2000}})
        run.claim("it is so", True, "1 of 1")
        run.claim("it is not", False, "0 of 1")
        run.beside(1e-7, {"hyperloom": measure.Side(3, 1.5)}, {"loss": 0.25})
        run.settings(width=3)
        run.figure("empty.png", Figure((1, 1)), "nothing")
        run.gif("empty.gif", [Figure((1, 1)), Figure((1, 1))], "nothing, twice")
    assert {path.name for path in run.out.iterdir()} == {"empty.png", "empty.gif", NUMBERS}
    numbers = json.loads((run.out / NUMBERS).read_text("utf-8"))
    assert numbers["tables"]["Numbers"] == {"a": {"x": 1, "y": 0.123457}, "b": {"x": 2000}}
    assert [claim["holds"] for claim in numbers["claims"]] == [True, False]
    assert numbers["settings"] == {"width": 3}
    text = section(numbers)
    assert "| it is not | **does not hold** | 0 of 1 |" in text
    assert "| b |2,000||" in text
    assert "differ by 1.0e-07 at most" in text


def test_numbers_are_shown_short() -> None:
    assert [shown(v) for v in (12345, 0.000123456, "x", None, True)] == [
        "12,345", "0.0001235", "x", "None", "True",
    ]  # fmt: skip
