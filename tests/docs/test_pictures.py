"""The pictures of the pages are those of the code. `HYPERLOOM_REGENERATE=1` draws them again."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs import pictures

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
DRAWN = pictures.pictures()


def test_the_pictures_are_those_of_the_code() -> None:
    if os.environ.get("HYPERLOOM_REGENERATE"):
        pictures.main()
    there = {name: (pictures.IMAGES / name).read_text("utf-8") for name in DRAWN}
    assert there == DRAWN
    for picture in DRAWN.values():
        ElementTree.fromstring(picture)


def test_a_reader_may_ask_that_nothing_moves() -> None:
    assert "prefers-reduced-motion:reduce" in DRAWN["hyperloom.svg"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_picture_is_there_and_says_what_it_shows(page: Path) -> None:
    for text, path in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", page.read_text("utf-8")):
        assert len(text) > 3, path
        assert (page.parent / path).is_file(), path
