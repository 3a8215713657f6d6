"""For the reference: docstrings that complete those of a protocol, as `documented.completes` does.

The reference reads source text and runs none of it, so it is told here what the decorator does.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

from hyperloom._core.backend import protocol
from hyperloom._core.backend.documented import CALLED, merged

_COMPLETES = re.compile(r"completes\(protocol\.([\w.]+)\)")


class Twins(griffe.Extension):
    """Gives classes and functions under `@completes(protocol.Name)` their whole docstrings."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Complete a class, and its methods and properties."""
        twin = _twin(cls)
        if twin is None:
            return
        _complete(cls, twin)
        for name, member in vars(twin).items():
            found = cls.members.get(name) or cls.members.get(CALLED.get(name, ""))
            if found is not None and (not name.startswith("_") or name in CALLED):
                _complete(found, member)

    def on_function_instance(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Complete a function."""
        twin = _twin(func)
        if twin is not None:
            _complete(func, twin)


def _twin(own: Any) -> Any:
    """Return the object of the protocol that a decorator names, if one does."""
    for decorator in own.decorators:
        found = _COMPLETES.fullmatch(str(decorator.value))
        if found:
            made: Any = protocol
            for name in found[1].split("."):
                made = getattr(made, name)
            return made
    return None


def _complete(own: Any, twin: Any) -> None:
    said = own.docstring.value if own.docstring else ""
    own.docstring = griffe.Docstring(merged(twin.__doc__, said), parent=own)
