"""The module map of the design page: every room with its files, by the first line of docstrings.

`HYPERLOOM_REGENERATE=1` writes it again.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "design.md"
SOURCE = ROOT / "src" / "hyperloom"
START, END = "<!-- map -->\n", "<!-- /map -->\n"
# The order of the rooms is that of the data: the core from the ground up, a backend along a call.
ROOMS = [
    "",
    *(
        f"_core{part}"
        for part in ("", "/target", "/choices", "/choices/layouts", "/choices/forms", "/plan")
    ),
    *(f"_core/{part}" for part in ("reference", "checkpoint", "reports", "backend")),
    *(
        f"{backend}{part}"
        for backend in ("torch", "jax")
        for part in ("", "/_target", "/_generate", "/_weights", "/_rules", "/_run", "/_tools")
    ),
]


def first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.splitlines()[0].removesuffix(".")


def rooms() -> list[Path]:
    """Return every folder of the package that has code: those of `ROOMS`, then the others."""
    there = [path.parent for path in sorted(SOURCE.rglob("__init__.py"))]
    known = [SOURCE / room if room else SOURCE for room in ROOMS]
    return [room for room in known if room in there] + [r for r in there if r not in known]


def room_table(room: Path) -> str:
    name = room.relative_to(SOURCE).as_posix()
    label = "src/hyperloom/" if name == "." else f"src/hyperloom/{name}/"
    head = f"`{label}`: {first_line(room / '__init__.py')}"
    files = [path for path in sorted(room.glob("*.py")) if path.name != "__init__.py"]
    rows = "".join(f"| `{path.name}` | {first_line(path)} |\n" for path in files)
    return f"{head}\n\n" + (f"| file | what it is |\n|---|---|\n{rows}\n" if rows else "")


def written(page: str) -> str:
    """Return the page with the map as it should be."""
    before, _, rest = page.partition(START)
    after = rest.partition(END)[2]
    return before + START + "\n" + "".join(map(room_table, rooms())) + END + after


def test_the_map_has_every_module_and_what_it_is() -> None:
    page = PAGE.read_text("utf-8")
    if os.environ.get("HYPERLOOM_REGENERATE"):
        page = written(page)
        PAGE.write_text(page, "utf-8")
    assert page == written(page), "HYPERLOOM_REGENERATE=1 pytest tests/docs/test_design_map.py"


def test_every_file_says_what_it_is() -> None:
    nameless = [path for path in SOURCE.rglob("*.py") if not first_line(path)]
    assert not nameless


def like_runs(num: int) -> set[str]:
    """Return the paths, below a backend, of files with `num` lines in a row that the other has."""

    def runs(backend: str) -> dict[tuple[str, ...], str]:
        found = {}
        for path in sorted((SOURCE / backend).rglob("*.py")):
            lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
            name = path.relative_to(SOURCE / backend).as_posix()
            found |= {tuple(lines[i : i + num]): name for i in range(len(lines) - num + 1)}
        return found

    ours, theirs = runs("torch"), runs("jax")
    return {ours[run] for run in ours.keys() & theirs.keys()}


def test_the_page_names_the_files_with_ten_lines_that_both_backends_have() -> None:
    text = PAGE.read_text("utf-8")
    listed = text[text.index("Runs of ten like lines") : text.index("## Module map")]
    assert like_runs(10) == {name for name in listed.split("`") if name.endswith(".py")}
