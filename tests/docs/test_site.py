"""The site: its navigation has every page, its numbers are those of reports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REPORTS = DOCS / "reports"
FIRST = [ROOT / "README.md", DOCS / "index.md"]
NAV = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2].partition("\n\n")[0]


def pages(text: str) -> list[str]:
    """Return the pages that a part of the navigation names."""
    return re.findall(r"[\w/]+\.md", text)


# By task: what the navigation has under "How do I …".
HOW_TO = [DOCS / page for page in pages(NAV.partition("- How do I …:")[2].partition("\n  - ")[0])]
SECTIONS = ["Start", "How do I …", "Gallery", "Ideas", "Extend", "Reference", "Project"]


def test_the_navigation_goes_by_task() -> None:
    assert re.findall(r"^  - ([^:]+):", NAV, re.MULTILINE) == SECTIONS
    assert sorted(HOW_TO) == sorted(DOCS.glob("howto/*.md"))


def test_the_navigation_has_every_page_once() -> None:
    named = pages(NAV)
    assert sorted(named) == sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_how_to_page_is_short_and_ends_in_what_can_go_wrong(page: Path) -> None:
    lines = page.read_text("utf-8").splitlines()
    assert len(lines) <= 120
    titles = [line for line in lines if re.match(r"## ", line)]
    assert titles[-1] == "## What can go wrong"


@pytest.mark.parametrize("page", FIRST, ids=lambda page: page.name)
def test_the_first_block_fits_the_column(page: Path) -> None:
    block = page.read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    assert max(map(len, block.splitlines())) <= 76


@pytest.mark.parametrize("page", FIRST, ids=lambda page: page.name)
def test_numbers_on_the_first_page_are_those_of_reports(page: Path) -> None:
    text = page.read_text("utf-8")
    numbers = text.partition("<!-- numbers -->")[2].partition("<!-- /numbers -->")[0]
    _, _, speed, zoo, forgotten = numbers.strip().splitlines()

    report = (REPORTS / "benchmarks.md").read_text("utf-8")
    ms = {
        who: float(re.findall(rf"\| n 1, B 512 \| {who} \| ([\d.]+) \|", report)[0])
        for who in ("hyperloom", "hypnettorch", "hand bmm")
    }
    ours, peer, hand = ms["hyperloom"], ms["hypnettorch"], ms["hand bmm"]
    assert f"**{peer / ours:.0f} ×** faster than hypnettorch, {hand / ours:.0f} × than" in speed
    assert f"{ours:.0f} ms on two cores" in speed
    assert "functional_call, one head | 1.05×" in report
    assert "(1.05 ×)" in text

    rows = re.findall(r"^\| [a-z].*", (REPORTS / "zoo.md").read_text("utf-8"), re.MULTILINE)[1:]
    assert f"**{len(rows)}** architectures" in zoo
    close = sum("equal (1e-05)" in row for row in rows)
    assert all(row.count("equal (1e-0") >= 2 for row in rows)
    assert f"{len(rows) - close} to 1e-9 and {'one' if close == 1 else close} to 1e-5" in zoo
    one_by_one = sum("| loop |" in row for row in rows)
    assert f"Of the {len(rows)} architectures, {one_by_one}" in " ".join(text.split())

    split = _run("Split-MNIST")
    assert "97.99 % at the end" in forgotten
    assert "| 97.99 | ≥ 97 |" in split
    assert "| -0.03 | ≤ 0.5 |" in split
    assert re.search(r"β = 0, seed 0 .* 19\.07 \|", split)


def _run(name: str) -> str:
    """Return a section of the report of reproductions."""
    report = (REPORTS / "reproductions.md").read_text("utf-8")
    return report.partition(f"\n## {name}")[2].partition("\n## ")[0]


def test_the_reports_have_all_numbers_beside_them() -> None:
    for name in ("benchmarks", "reproductions"):
        numbers: Any = json.loads((REPORTS / f"{name}.json").read_text("utf-8"))
        assert numbers
