"""How hyperloom words its errors, and the one error class it adds.

Every message has the same four parts: the argument, what it got, what was wanted, the way out.
Users meet `ValueError`, `TypeError` and `IndexError`; an `assert` marks a bug of our own.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

Kind = TypeVar("Kind")


class CheckpointError(ValueError):
    """A checkpoint cannot be used: it is cut, altered, too new, or made for another target.

    The message says which. Raised before anything is changed: the object that was to be
    filled is as it was.
    """


def message(argument: str, got: object, wanted: str, way_out: str = "") -> str:
    """Return the text of an error about `argument`.

    Args:
        argument: Name of the argument as the user wrote it.
        got: What was given, or a string that says it (a string the user gave is passed as its
            `repr`).
        wanted: What would have been right.
        way_out: What to do now, a whole sentence. May be empty.
    """
    text = f"{argument}: got {got if isinstance(got, str) else shown(got)}; wanted {wanted}."
    return f"{text} {way_out}" if way_out else text


def call_it(value: object, kind: type = object) -> str:
    """Return a sentence for one who gave a class where an object of `kind` was wanted."""
    if isinstance(value, type) and issubclass(value, kind):
        return f"Call it: {value.__name__}(...)."
    return ""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return a sentence that names the known strings closest to `name`."""
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    few = ", ".join(map(repr, names[:6]))
    return f"There are: {few}{f' and {len(names) - 6} more' if len(names) > 6 else ''}."


_LONGEST = 200
_LARGEST = 2**63 - 1  # frameworks keep sizes in 64 bits


def shown(value: object) -> str:
    """Return how a value that a user gave is shown: short, and by its kind where it is large."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if callable(getattr(value, "parameters", None)):  # a module's own text may be a page long
        return f"a {type(value).__name__}"
    if isinstance(getattr(value, "shape", None), tuple) and not isinstance(value, np.generic):
        return _shown_array(value)
    text = repr(value)
    if len(text) <= _LONGEST and "\n" not in text:
        return text
    of_python = type(value).__module__ == "builtins"
    return f"{text[:_LONGEST]} ..." if of_python else f"a {type(value).__name__}"


def _shown_array(value: Any) -> str:
    """Return dtype and shape of an array of NumPy or of a framework."""
    dtype = str(getattr(value, "dtype", "object"))
    kind = "tensor" if dtype.startswith("torch.") else "array"
    kind = f"NumPy {kind}" if isinstance(value, np.ndarray) else kind
    return f"a {dtype} {kind} of shape {tuple(value.shape)}"


def a_kind(argument: str, value: object, kind: type[Kind], wanted: str, way_out: str = "") -> Kind:
    """Return `value` if it is an instance of `kind`; raise otherwise."""
    if not isinstance(value, kind):
        raise TypeError(message(argument, shown(value), wanted, way_out or call_it(value, kind)))
    return value


def positive_int(argument: str, value: object, least: int = 1) -> int:
    """Return `value` if it is an int of at least `least`; raise otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(message(argument, shown(value), f"an int of at least {least}"))
    if value < least:
        raise ValueError(message(argument, value, f"an int of at least {least}"))
    if value > _LARGEST:
        raise ValueError(message(argument, value, f"an int of at least {least}, and 64 bits"))
    return value


def some_ints(argument: str, value: object, wanted: str, least: int = 1) -> tuple[int, ...]:
    """Return `value` as a tuple if it is a tuple or list of ints of at least `least`."""
    ints = isinstance(value, (tuple, list)) and all(type(number) is int for number in value)
    if not isinstance(value, (tuple, list)) or not ints:
        raise TypeError(message(argument, shown(value), wanted))
    return tuple(positive_int(argument, number, least) for number in value)


def a_bool(argument: str, value: object) -> None:
    """Raise unless `value` is a bool: a string or a number would count as true."""
    if not isinstance(value, bool):
        raise TypeError(message(argument, shown(value), "a bool"))


def a_string(argument: str, value: object, wanted: str = "a string") -> str:
    """Return `value` if it is a string; raise otherwise."""
    return a_kind(argument, value, str, wanted)


def a_mapping(argument: str, value: object, wanted: str) -> Mapping[Any, Any]:
    """Return `value` if it is a dict or another mapping; raise otherwise."""
    if not isinstance(value, Mapping):
        raise TypeError(message(argument, f"a {type(value).__name__}", wanted))
    return value


def a_path(argument: str, value: object) -> str:
    """Return `value` as a string if it is a path; raise otherwise."""
    wanted = "a path: a string, or an object such as pathlib.Path"
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(message(argument, shown(value), wanted))
    path = os.fspath(value)
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(message(argument, repr(path), wanted))
    return path


def a_function(argument: str, value: object, wanted: str) -> None:
    """Raise unless `value` can be called."""
    if not callable(value):
        raise TypeError(message(argument, shown(value), wanted))


def one_of(argument: str, value: object, words: Sequence[str], way_out: str = "") -> str:
    """Return `value` if it is one of `words`; raise otherwise."""
    wanted = f"{', '.join(map(repr, words[:-1]))} or {words[-1]!r}"
    if not isinstance(value, str):
        raise TypeError(message(argument, shown(value), wanted, way_out))
    if value not in words:
        guess = way_out or did_you_mean(value, words)
        raise ValueError(message(argument, shown(value), wanted, guess))
    return value


def finite_float(argument: str, value: object, least: float | None = None) -> float:
    """Return `value` as a float if it is finite (and at least `least`); raise otherwise."""
    wanted = "a finite number" + ("" if least is None else f" of at least {least:g}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(message(argument, shown(value), wanted))
    try:
        number = float(value)
    except OverflowError:  # an int of more than 300 digits
        number = float("inf")
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(message(argument, shown(value), wanted))
    if least is not None and number < least:
        raise ValueError(message(argument, value, wanted))
    return number
