"""A door stays a door: what it may use of the house, and that nothing is there for it alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import hyperloom.jax
import hyperloom.torch

SOURCE = Path(hyperloom.__file__).parent
DOORS = sorted((SOURCE / "compat").rglob("*.py"))
HOUSE = sorted(set(SOURCE.rglob("*.py")) - set(DOORS))
# What the doors use that is not public; docs/design.md says why.
PRIVATE = {"message", "build_trunk", "RecurrentCondition"}


def imported(path: Path) -> set[str]:
    """Return the names that a file imports from the house, outside the doors."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        module = str(node.module) if isinstance(node, ast.ImportFrom) else ""
        if re.match(r"hyperloom\.(?!compat)", module):
            found |= {name.name for name in node.names}  # type: ignore[attr-defined]
    return found


def words(paths: list[Path]) -> list[str]:
    return re.findall(r"\w+", "\n".join(path.read_text() for path in paths))


def test_doors_import_public_names_and_a_few_more() -> None:
    public = {*hyperloom.torch.__all__, *hyperloom.jax.__all__}
    assert set().union(*map(imported, DOORS)) - public == PRIVATE


def test_nothing_in_the_house_is_there_for_a_door_alone() -> None:
    """Every function and class that a door mentions is mentioned in the house, past its `def`."""
    inside = set(words(DOORS))
    told = words([path for path in HOUSE if path.name != "__init__.py"])
    public = {*hyperloom.torch.__all__, *hyperloom.jax.__all__}
    alone = []
    for path in HOUSE:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            if node.name in public or node.name.startswith("__"):
                continue
            if node.name in inside and told.count(node.name) == 1:
                alone.append(f"{path.name}: {node.name}")
    assert not alone
