"""The executed notebooks: their cells are those of their sources, they ran, they are small."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jupytext", reason="notebooks are held to their sources with jupytext")
pytest.importorskip("nbclient", reason="notebooks are run by nbclient")

import nbformat

from docs.notebooks import FOLDER, SOURCES, executed, unexecuted

MOST_BYTES = 300_000
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)  # pyright: ignore[reportPrivateImportUsage]


def said(book: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in book.cells]


def test_there_is_the_guide_and_five_recipes() -> None:
    assert len(SOURCES) == 6
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SOURCES)
    page = (FOLDER / "index.md").read_text("utf-8")
    assert all(f"({name}.ipynb)" in page for name in SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_a_notebook_is_in_step_with_its_source(name: str) -> None:
    """If it is not: python -m docs.notebooks NAME."""
    assert said(read(name)) == said(unexecuted(name))


@pytest.mark.parametrize("name", SOURCES)
def test_a_notebook_ran_from_its_first_cell_to_its_last(name: str) -> None:
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert bool(pictures) == (name != "guide")


@pytest.mark.parametrize("name", SOURCES)
def test_a_notebook_is_small(name: str) -> None:
    assert (FOLDER / f"{name}.ipynb").stat().st_size <= MOST_BYTES


@pytest.mark.parametrize("name", SOURCES)
def test_links_of_a_notebook_lead_somewhere(name: str) -> None:
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    for link in LINK.findall(text):
        assert (FOLDER / link.partition("#")[0]).is_file(), link


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    book = executed(name, tmp_path)
    assert [len(cell.get("outputs", [])) > 0 for cell in book.cells] == [
        len(cell.get("outputs", [])) > 0 for cell in read(name).cells
    ]
