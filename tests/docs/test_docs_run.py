"""The documentation runs: every Python block of README.md and docs/ is executed.

The blocks of one file run in order and share their names, as a reader would type them. They run in
an empty folder, so they may write files. A block that cannot run here (it needs a GPU, or data that
is not there) carries the reason in a comment in front of it, which no reader sees:

    <!-- skip: next "needs a GPU" -->

Output and code that is only a sketch go into ```text blocks. In ```bash blocks, and anywhere else,
`make TARGET` must name a target of the Makefile.
"""

from __future__ import annotations

import contextlib
import re
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sybil import Document, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
    if page.is_file()
]
FENCES = RawFencedCodeBlockLexer(re.compile(r"[ \t]*(?P<info>[^\n]*)$\n", re.MULTILINE))
SHELL = {"bash", "sh", "shell", "console"}
# Spellings that highlight as Python and would not be run.
OTHER_PYTHON = {"py", "python3", "py3", "pycon", "ipython", "Python"}


def _language(region: Region) -> str:
    """Return the first word behind the fence; "" for a fence without one."""
    return (region.lexemes["info"].split() or [""])[0]


def _python_blocks(document: Document) -> Iterator[Region]:
    for region in FENCES(document):
        if _language(region) == "python":
            region.parsed = region.lexemes["source"]
            region.evaluator = PythonEvaluator()
            yield region


def _document(page: Path) -> Document:
    return Document.parse(str(page), _python_blocks, SkipParser())


def _run(page: Path) -> dict[str, Any]:
    """Run the Python blocks of `page`; return the names that they defined."""
    document = _document(page)
    for example in document:
        with contextlib.suppress(unittest.SkipTest):
            example.evaluate()
    return document.namespace


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if list(_document(p))], ids=_name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _run(page)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_fence_is_read_alike_by_the_tests_and_the_site(page: Path) -> None:
    regions = list(FENCES(Document(page.read_text("utf-8"), str(page))))
    assert not {_language(r) for r in regions} & OTHER_PYTHON, "write ```python, or ```text"
    # The site shows a fence with anything else behind it as plain text.
    fence = re.compile(r"""(\w*( \w+="[^"]*")*| ?\{.*\})\s*""")
    assert [i for r in regions if not fence.fullmatch(i := r.lexemes["info"])] == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_code_fits_the_column_of_the_site(page: Path) -> None:
    """A desk has room for a hundred columns: tests/docs/test_browser.py looks at it."""
    lines = [line for r in _python_blocks(_document(page)) for line in r.parsed.splitlines()]
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = page.read_text("utf-8")
    named = set(re.findall(r"`make ([a-z]+)", text))
    for region in FENCES(Document(text, str(page))):
        if _language(region) in SHELL:
            named |= set(re.findall(r"\bmake ([a-z]+)", region.lexemes["source"]))
    assert not named - targets


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.md"


def test_a_broken_block_is_seen(page: Path) -> None:
    page.write_text("Text\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", "utf-8")
    with pytest.raises(AssertionError) as failure:
        _run(page)
    last = failure.traceback[-1]
    assert (Path(last.path), last.lineno + 1) == (page, 8)


def test_blocks_share_names_and_titles_do_not_hide_them(page: Path) -> None:
    page.write_text(
        '```python title="a"\nx = 1\n```\n\n- list\n\n    ```python\n    y = x + 1\n    ```\n',
        "utf-8",
    )
    assert _run(page) == {"x": 1, "y": 2}


def test_marked_blocks_and_other_languages_do_not_run(page: Path) -> None:
    page.write_text(
        '<!-- skip: next "needs a GPU" -->\n\n```python\na = 1\n```\n\n'
        "<!-- skip: next -->\n\n```python\nb = 1\n```\n\n"
        "```text\nc = 1\n```\n\n```\nd = 1\n```\n\n```python\nx = 1\n```\n",
        "utf-8",
    )
    assert _run(page) == {"x": 1}
