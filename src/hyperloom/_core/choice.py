"""The base of all objects that stand for a choice."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any


class Choice:
    """A frozen object that owns the options of a choice. Its `repr` shows what was chosen."""

    def __repr__(self) -> str:
        shown = []
        required = True
        for field in sorted(fields(self), key=lambda f: f.kw_only):  # type: ignore[arg-type]
            value: Any = getattr(self, field.name)
            required = required and field.default is MISSING
            if required:
                shown.append(repr(value))
            elif value != field.default:
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"
