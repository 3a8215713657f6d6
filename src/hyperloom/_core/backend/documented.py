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

    Where both describe an argument or an error of one name, the description of the backend is
    taken. A class gives its methods and properties the docstrings of the protocol's, likewise.
    """

    def complete(definition: Twin) -> Twin:
        definition.__doc__ = merged(protocol.__doc__, definition.__doc__)
        if isinstance(definition, type):
            for name, member in vars(protocol).items():
                counterpart = vars(definition).get(name) or vars(definition).get(
                    CALLED.get(name, "")
                )
                counterpart = getattr(counterpart, "__func__", counterpart)  # of a classmethod
                if counterpart is not None and (not name.startswith("_") or name in CALLED):
                    counterpart.__doc__ = merged(member.__doc__, counterpart.__doc__)
        return definition

    return complete


def merged(shared: str | None, completion: str | None) -> str:
    """Join two docstrings: descriptions one after the other, sections entry by entry."""
    sections = dict(_sections(shared))
    for title, text in _sections(completion):
        if title not in sections or title in ("Returns", "Example"):
            sections[title] = text
        elif not title:
            sections[title] = "\n\n".join(part for part in (sections[title], text) if part)
        else:
            entries = {**dict(_entries(sections[title])), **dict(_entries(text))}
            sections[title] = "\n".join(entries.values())
    shown = [f"{title}:\n{text}" if title else text for title, text in sections.items()]
    return "\n\n".join(part for part in shown if part)


def _sections(text: str | None) -> Iterator[tuple[str, str]]:
    """Yield title and text of each section; the description has no title."""
    title, lines = "", list[str]()
    for line in inspect.cleandoc(text or "").splitlines():
        title_line = _TITLE.match(line)
        if title_line:
            yield title, "\n".join(lines).strip("\n")
            title, lines = title_line[1], []
        else:
            lines.append(line)
    yield title, "\n".join(lines).strip("\n")


def _entries(section: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each entry of a section."""
    for entry in re.split(r"\n(?=    \S)", section):
        yield entry.partition(":")[0].strip(), entry
