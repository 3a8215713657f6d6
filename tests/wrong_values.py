"""Wrong values for every public argument, and the test that each is accepted or named.

A `Door` is one public callable with good arguments. `knock` puts every wrong value in the place
of one argument, beside good others. The call must raise an error whose text begins with the
argument's name, or be one of the few pairs that the door says are legal; a legal pair that is
refused after all is a failure too, so that the table of legal pairs stays as small as it can be.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

WRONG: dict[str, Any] = {
    "None": None,
    "a string": "wrong",
    "an empty string": "",
    "True": True,
    "False": False,
    "0": 0,
    "2": 2,
    "-1": -1,
    "0.5": 0.5,
    "-0.5": -0.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "a huge int": 10**30,
    "a complex": 1j,
    "bytes": b"wrong",
    "an empty list": [],
    "a list": ["wrong", 1],
    "an empty dict": {},
    "a dict": {"wrong": 1},
    "a dict by int": {1: "wrong"},
    "an empty tuple": (),
    "a set": {1, 2},
    "an object": object(),
    "a class": dict,
    "a function": lambda *args, **kwargs: None,
    "a module": np,
    "a NumPy array": np.ones((2, 3)),
    "a NumPy int": np.int64(2),
    "a path": Path("no-such-folder/no-such-file"),
}

NUMBERS = ("0", "2", "-1", "0.5", "-0.5", "a huge int")
POSITIVE = ("2", "0.5", "a huge int")
NOT_NEGATIVE = ("0", *POSITIVE)
INTS = ("2",)
BOOLS = ("True", "False")
DICTS = ("an empty dict", "a dict", "a dict by int")
ANYTHING = tuple(WRONG)

# An input is named by its place; what pairs is a matter of inputs, dimensions and conditions.
LEADS = {
    "*inputs": r"(input 0|inputs)",
    "in_dims": r"(in_dims|input 0)",
    "in_axes": r"(in_axes|input 0)",
    "condition": r"(conditions?|input 0|inputs|carry|noise)",
    "path": r"(path|checkpoint)",
}

Good = Mapping[str, Any]


@dataclass(frozen=True)
class Door:
    """A public callable with good arguments.

    Attributes:
        name: Its public name, `"Class"`, `"function"` or `"Class.method"`, and after a space, if
            there are several doors of one callable, what is special about this one.
        call: The callable; see `opened`.
        good: Makes good arguments. A name with a star stands for a tuple of positional arguments,
            of which the first is replaced.
        legal: Argument -> names of the wrong values that it takes, for a reason given beside it.
        more: Wrong values of the framework's own.
        leads: Other first words of an error about an argument: an input is called `input 0`.
    """

    name: str
    call: Callable[..., Any]
    good: Callable[[], Good]
    legal: Mapping[str, Collection[str]] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    leads: Mapping[str, str] = field(default_factory=dict)

    def opened(self, good: Good) -> Any:
        """Call; what stands before a name with a star is positional too."""
        place, values = next((i for i, n in enumerate(good) if n[0] == "*"), 0), list(good.values())
        named = {n: v for i, (n, v) in enumerate(good.items()) if i >= place and n[0] != "*"}
        rest = values[place] if any(n[0] == "*" for n in good) else ()
        return self.call(*values[:place], *rest, **named)

    def values(self) -> Mapping[str, Any]:
        return {**WRONG, **self.more}


def door(
    more: Mapping[str, Any],
    name: str,
    call: Callable[..., Any],
    good: Good | Callable[[], Good],
    legal: Mapping[str, Collection[str]] | None = None,
    **leads: str,
) -> Door:
    """Return a door of a backend, whose good arguments may stand there without a function.

    Args:
        more: Wrong values of the framework's own; a file binds them with `partial`.
        name: As of `Door`; so are `call`, `good`, `legal` and `leads`, which `LEADS` precede.
        call: The callable.
        good: Good arguments, or what makes them anew for each call.
        legal: Wrong values that are taken.
        **leads: Other first words of errors.
    """
    fresh: Callable[[], Good] = good if callable(good) else lambda: dict(good)
    return Door(name, call, fresh, legal or {}, more, leads={**LEADS, **leads})


def knock(door: Door, unchanged: Callable[[], Any] = lambda: None) -> list[str]:
    """Return what is wrong with a door, a line for each pair of argument and value.

    Args:
        door: The door.
        unchanged: Returns what no wrong call may change, in a form that can be compared.
    """
    door.opened(door.good())  # the good arguments are good
    before, found = unchanged(), []
    for argument in door.good():
        legal = door.legal.get(argument, ())
        unknown = [name for name in legal if name not in door.values()]
        assert not unknown, unknown
        for name, value in door.values().items():
            good = dict(door.good())
            value = copy.copy(value) if isinstance(value, (dict, list, set)) else value
            good[argument] = (value, *good[argument][1:]) if argument[0] == "*" else value
            shown = _shown(good)
            fault = _fault(door, argument, good, name in legal)
            if fault:
                found.append(f"{door.name}({argument}={name}): {fault}")
            if unchanged() != before:
                found.append(f"{door.name}({argument}={name}): something was changed")
                before = unchanged()
            if _shown(good) != shown:
                found.append(f"{door.name}({argument}={name}): an argument was changed")
    return found


def _fault(door: Door, argument: str, good: Good, legal: bool) -> str | None:
    """Say what is wrong with one call."""
    try:
        door.opened(good)
    except Exception as error:
        if legal:
            return f"is in the table of legal pairs, and is refused: {_line(error)}"
        return None if names(error, argument, door.leads) else f"not named: {_line(error)}"
    return None if legal else "accepted"


def names(error: Exception, argument: str, leads: Mapping[str, str]) -> bool:
    """Whether an error is of a class that users are promised, and begins with the argument."""
    word = argument.lstrip("*")
    if isinstance(error, OSError) and "path" in word:
        return error.filename is not None  # the system's own words: "No such file: ..."
    if not isinstance(error, (TypeError, ValueError, IndexError, KeyError)):
        return False
    text = error.args[0] if isinstance(error, KeyError) else str(error)  # Python quotes its text
    lead = leads.get(argument, rf"(\w+\()?\*{{0,2}}{re.escape(word)}\b")
    return re.match(rf"{lead}[^:]*: got ", text, re.DOTALL) is not None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _shown(good: Good) -> str:
    """Return the containers among the arguments as text: a call must not change them."""
    return repr({k: v for k, v in good.items() if isinstance(v, (dict, list, set, tuple))})


def arguments(function: Callable[..., Any]) -> set[str]:
    """Return the names of a callable's arguments; those of `*args` with a star."""
    found = set()
    if isinstance(function, type):  # a metaclass may take any arguments
        function = function.__init__
    for name, parameter in inspect.signature(function).parameters.items():
        if name in ("self", "cls") or parameter.kind is parameter.VAR_KEYWORD:
            continue
        found.add(f"*{name}" if parameter.kind is parameter.VAR_POSITIONAL else name)
    return found


def public(module: Any, bases: tuple[type, ...] = ()) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield every public callable of a module: functions, constructors, methods.

    Args:
        module: With an `__all__`.
        bases: Classes of a framework, whose methods are not ours.
    """
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, ModuleType):  # a room of its own, with tests of its own
            continue
        if not isinstance(value, type):
            yield name, value
            continue
        if issubclass(value, tuple):  # a record that checks nothing: what takes it does
            continue
        yield name, value
        for key in dir(value):
            member = getattr(value, key)
            called = key in ("__call__", "__getitem__") if key[0] == "_" else callable(member)
            # `vars` does not say it: `nnx.tabulate` leaves inherited methods there that it wraps.
            if called and all(getattr(base, key, None) != member for base in (object, *bases)):
                yield f"{name}.{key}", member
