"""The module map of the design page: every module, with the first line of its docstring.

`HYPERLOOM_REGENERATE=1` writes it again: modules keep their places, new ones come last.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "design.md"
SOURCE = ROOT / "src" / "hyperloom"
# The folders that have a table of their own; what is in none of them is the core.
FOLDERS = ["torch/", "jax/", "compat/", "recipes/"]
TABLE = re.compile(r"`src/hyperloom/(?P<folder>[\w/]*)`:\n\n(?P<rows>(?:\|.*\n)+)")
HEAD = "| file | what it is |\n|---|---|\n"


def first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.splitlines()[0].removesuffix(".")


def modules() -> dict[str, dict[str, str]]:
    """Return folder -> file -> first line of its docstring."""
    found: dict[str, dict[str, str]] = {folder: {} for folder in ["", *FOLDERS]}
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        folder = next((f for f in FOLDERS if name.startswith(f)), "")
        found[folder][name.removeprefix(folder)] = first_line(path)
    return found


def mapped(page: str) -> dict[str, dict[str, str]]:
    """Return what the page says, in the same form."""
    found = {}
    for table in TABLE.finditer(page):
        rows = [row.strip("| ").split(" | ", 1) for row in table["rows"].splitlines()[2:]]
        found[table["folder"]] = {name.strip("`"): text for name, text in rows}
    return found


def written(page: str) -> str:
    """Return the page with the map as it should be."""
    there, old = modules(), mapped(page)

    def table(match: re.Match[str]) -> str:
        files = there[match["folder"]]
        names = [n for n in old[match["folder"]] if n in files]
        names += [n for n in files if n not in names]
        rows = "".join(f"| `{name}` | {files[name]} |\n" for name in names)
        return f"`src/hyperloom/{match['folder']}`:\n\n{HEAD}{rows}"

    return TABLE.sub(table, page)


def test_the_map_has_every_module_and_what_it_is() -> None:
    page = PAGE.read_text()
    if os.environ.get("HYPERLOOM_REGENERATE"):
        page = written(page)
        PAGE.write_text(page)
    assert mapped(page) == modules()


def test_a_module_that_is_missing_in_the_map_is_seen() -> None:
    page = PAGE.read_text()
    row = re.search(r"\| `_plan\.py` \|.*\n", page)
    assert row
    shorter = page.replace(row[0], "")
    assert mapped(shorter) != modules()
    assert mapped(written(shorter)) == modules()
    assert mapped(page.replace("how large everything", "something")) != modules()
