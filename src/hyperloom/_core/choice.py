"""The base of all objects that stand for a choice."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, ClassVar

from hyperloom._core.errors import message

_DEFINED: dict[tuple[str, str], type] = {}


class Choice:
    """A frozen object that owns the options of a choice. Its `repr` shows what was chosen.

    A class of choices is either open, to be extended by classes of the user's own, or final.
    Every class is known by its name, which is how a checkpoint finds it again.
    """

    _open: ClassVar[bool] = False
    _instead: ClassVar[str] = ""

    def __init_subclass__(cls, open: bool = False, instead: str = "") -> None:  # noqa: A002
        """Define a class of choices.

        Args:
            open: Whether users may extend it.
            instead: For a class that users may not extend: a sentence that says what to do.

        Raises:
            TypeError: A class of the user's own that extends one that is not open.
        """
        super().__init_subclass__()
        cls._open = open or not of_library(cls)
        cls._instead = instead or cls._instead
        for base in cls.__bases__:
            if issubclass(base, Choice) and not base._open and not of_library(cls):
                opened = [b.__name__ for b in base.__mro__ if getattr(b, "_open", False)]
                wanted = f"a subclass of {opened[-1]}" if opened else "no subclass of it"
                got = f"a subclass of {base.__name__}, which is final"
                raise TypeError(message(f"class {cls.__name__}", got, wanted, base._instead))
        _DEFINED[cls.__module__, cls.__qualname__] = cls

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


def of_library(cls: type) -> bool:
    """Whether a class is one of hyperloom's own; recipes define theirs as users do."""
    package, _, rest = cls.__module__.partition(".")
    return package == "hyperloom" and rest.partition(".")[0] != "recipes"


def defined(name: str, module: str | None) -> list[type]:
    """Return the classes of choices that a name stands for.

    Args:
        name: Name of the class.
        module: Where it was defined when it was written down; `None` for hyperloom's own.

    Returns:
        hyperloom's class of that name; the user's class of that name and module, or where there
        is none, as after a file has moved, all of the user's of that name.
    """
    known = [cls for cls in _DEFINED.values() if cls.__name__ == name]
    if module is None:
        return [cls for cls in known if of_library(cls)]
    known = [cls for cls in known if not of_library(cls)]
    return [cls for cls in known if cls.__module__ == module] or known
