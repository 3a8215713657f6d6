"""The reference: a page a topic, and every public name on one of them."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PAGES = sorted((Path(__file__).parents[2] / "docs" / "reference").glob("*.md"))
PUBLIC = [
    "hyperloom",
    "hyperloom.extend",
    "hyperloom.jax",
    "hyperloom.torch",
    "hyperloom.torch._tools.peft",
    "hyperloom.compat.hypernn.jax",
    "hyperloom.compat.hypernn.torch",
    "hyperloom.compat.hypnettorch.hnets",
    "hyperloom.compat.hypnettorch.mnets",
]
ENTRIES = [
    (page.name, path)
    for page in PAGES
    for path in re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)
]


def found(path: str) -> Any:
    """Return the object that an entry names."""
    try:
        return pkgutil.resolve_name(path)
    except AttributeError:
        # A module that a function of its package's stands before: peft.choices.choices.
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_has_an_entry(module: str) -> None:
    shown = {id(found(path)) for _, path in ENTRIES}
    text = "".join(page.read_text("utf-8") for page in PAGES)
    home = importlib.import_module(module)
    public = {name: getattr(home, name) for name in home.__all__ if not name.startswith("__")}
    things = {n: v for n, v in public.items() if not isinstance(v, ModuleType)}
    assert things
    # A value, such as ZERO, has no docstring of its own: a page names it.
    values = {n for n, v in things.items() if not callable(v) and f"`{n}`" in text}
    missing = [n for n, v in things.items() if id(v) not in shown and n not in values]
    assert missing == []


def test_an_entry_stands_once_and_a_page_is_a_topic() -> None:
    paths = [path for _, path in ENTRIES]
    assert len(set(paths)) == len(paths)
    for page in PAGES:
        assert sum(name == page.name for name, _ in ENTRIES) <= 35
