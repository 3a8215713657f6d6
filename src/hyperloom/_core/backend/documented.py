"""Docstrings of what every backend has: written once, completed by each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Twin = TypeVar("Twin")
_TITLE = re.compile(r"^(Args|Attributes|Returns|Raises|Example):$")
# What a backend may call otherwise: a module of PyTorch is called by its forward.
CALLED = {"__call__": "forward"}


def completes(protocol: Any) -> Callable[[Twin], Twin]:
    """Give a class or function the docstring of `protocol`, completed by what it says itself.

    What is said of arguments and errors of the same name is said by the backend. A class gives
    its methods and properties the docstrings of the protocol's, likewise.
    """

    def complete(own: Twin) -> Twin:
        own.__doc__ = merged(protocol.__doc__, own.__doc__)
        if isinstance(own, type):
            for name, member in vars(protocol).items():
                found = vars(own).get(name) or vars(own).get(CALLED.get(name, ""))
                if found is not None and (not name.startswith("_") or name in CALLED):
                    found.__doc__ = merged(member.__doc__, found.__doc__)
        return own

    return complete


def merged(shared: str | None, own: str | None) -> str:
    """Join two docstrings: descriptions one after the other, sections entry by entry."""
    made = dict(_sections(shared))
    for title, text in _sections(own):
        if title not in made or title in ("Returns", "Example"):
            made[title] = text
        elif not title:
            made[title] = "\n\n".join(part for part in (made[title], text) if part)
        else:
            entries = {**dict(_entries(made[title])), **dict(_entries(text))}
            made[title] = "\n".join(entries.values())
    shown = [f"{title}:\n{text}" if title else text for title, text in made.items()]
    return "\n\n".join(part for part in shown if part)


def _sections(text: str | None) -> Iterator[tuple[str, str]]:
    """Yield title and text of each section; the description has no title."""
    title, lines = "", list[str]()
    for line in inspect.cleandoc(text or "").splitlines():
        found = _TITLE.match(line)
        if found:
            yield title, "\n".join(lines).strip("\n")
            title, lines = found[1], []
        else:
            lines.append(line)
    yield title, "\n".join(lines).strip("\n")


def _entries(section: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each entry of a section."""
    for entry in re.split(r"\n(?=    \S)", section):
        yield entry.partition(":")[0].strip(), entry
