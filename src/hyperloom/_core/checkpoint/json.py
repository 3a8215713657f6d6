"""Plans as JSON: every frozen object is written as its class name and fields.

A class of the user's own is written with the module that defines it, and found again among the
classes that are defined when the file is read: reading runs no code, it only looks names up.
"""

from __future__ import annotations

import inspect
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from hyperloom._core import pieces, records
from hyperloom._core.choice import defined, of_library
from hyperloom._core.errors import CheckpointError, message, shown
from hyperloom._core.plan import plan
from hyperloom._core.target import spec

_RECORDS: dict[str, type] = {
    cls.__name__: cls
    for module in (pieces, records, spec, plan)
    for cls in vars(module).values()
    if isinstance(cls, type) and is_dataclass(cls) and cls.__module__ == module.__name__
}


def to_json(value: Any) -> Any:
    """Return `value` (frozen objects, tuples, numbers, strings) as JSON data.

    Raises:
        TypeError: A value that JSON does not have, in an object of the user's own.
    """
    if is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        data = {} if of_library(cls) else {"from": cls.__module__}
        return {"is": cls.__name__, **data, **_fields_of(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(message("checkpoint", shown(value), "numbers, strings, tuples and choices"))


def _fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of a frozen object as JSON data; raise if it has more than its fields."""
    cls = type(value)
    names = [field.name for field in fields(value)]
    lost = sorted(set(getattr(value, "__dict__", ())) - set(names) - _cached(cls))
    if lost:
        got = f"a {cls.__name__} with an attribute {lost[0]!r} that is no field"
        way_out = f"Decorate {cls.__name__} with @dataclass(frozen=True), and annotate {lost[0]}."
        raise TypeError(message("checkpoint", got, "fields only", way_out))
    data = {}
    for name in names:
        try:
            data[name] = to_json(getattr(value, name))
        except TypeError as error:
            if of_library(cls):
                raise
            got = f"{shown(getattr(value, name))} in {cls.__name__}.{name}"
            wanted = "numbers, strings, tuples and choices"
            raise TypeError(message("checkpoint", got, wanted)) from error
    return data


@lru_cache(maxsize=256)
def _cached(cls: type) -> frozenset[str]:
    """Return what a class computes once and keeps beside its fields."""
    kept = (n for c in cls.__mro__ for n, v in vars(c).items() if hasattr(v, "attrname"))
    return frozenset(kept)


def from_json(data: Any, argument: str = "checkpoint") -> Any:
    """Return what `to_json` wrote.

    A field that the data lacks, as a file of an older version may, has the default of its class.

    Args:
        data: The data.
        argument: What errors are about.

    Raises:
        CheckpointError: A class or field that is not known here, a field without a default that
            is missing, or a value of another type than the field's.
    """
    if isinstance(data, list):
        return tuple(from_json(item, argument) for item in data)
    if not isinstance(data, dict):
        return data
    cls = _class_of(data, argument)
    given = {
        key: from_json(value, argument) for key, value in data.items() if key not in ("is", "from")
    }
    instance, hints = object.__new__(cls), _hints(cls)
    known: dict[str, Any] = {field.name: field for field in fields(cls)}
    for name in given:
        if name not in known:
            got = f"{cls.__name__}.{name}, a field that this version does not know"
            way_out = "Install the hyperloom that wrote the file."
            raise CheckpointError(message(argument, got, f"the fields {sorted(known)}", way_out))
    for name, field in known.items():
        if name in given:
            value = _as(given[name], hints.get(name, Any), f"{cls.__name__}.{name}", argument)
        elif field.default is not MISSING:
            value = field.default
        elif field.default_factory is not MISSING:
            value = field.default_factory()
        else:
            got = f"a {cls.__name__} without its field {name!r}"
            raise CheckpointError(message(argument, got, f"the fields {sorted(known)}"))
        object.__setattr__(instance, name, value)
    _check(instance, argument)
    return instance


def _class_of(data: dict[str, Any], argument: str) -> type:
    """Return the class of an object."""
    name, module = data.get("is"), data.get("from")
    if not isinstance(name, str) or not isinstance(module, (str, types.NoneType)):
        raise CheckpointError(message(argument, f"a {name!r} object", "objects known here"))
    if module is None and name in _RECORDS:
        return _RECORDS[name]
    classes = [cls for cls in defined(name, module) if is_dataclass(cls)]
    if len(classes) == 1:
        return classes[0]
    if module is None:
        raise CheckpointError(message(argument, f"a {name!r} object", "objects known here"))
    if classes:
        got = f"a {name!r} of {module}, of which there are several here"
        way_out = f"Load the file where {module} defines {name}."
        raise CheckpointError(message(argument, got, "one class of that name", way_out))
    got = f"a {name!r} of {module}, a class that is not defined here"
    way_out = f"Define it, or import the module that does ({module}), before loading."
    raise CheckpointError(message(argument, got, f"a class {name!r}", way_out))


@lru_cache(maxsize=256)
def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a class's fields, where they can be told."""
    try:
        return typing.get_type_hints(cls)
    except NameError:  # a user's class may name what exists for type checkers only
        return {}


def _as(value: Any, hint: Any, where: str, argument: str) -> Any:
    """Return `value` if it is of the type that a field has, an enum's member for its value."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        if value in [member.value for member in hint]:
            return hint(value)
    elif _fits(value, hint):
        return value
    raise CheckpointError(message(argument, f"{where}={shown(value)}", _type_name(hint)))


def _type_name(hint: Any) -> str:
    return f"a value of type {hint.__name__ if isinstance(hint, type) else hint}"


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(_fits(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if hint in (int, float):
        number = (int, float) if hint is float else int
        return isinstance(value, number) and not isinstance(value, bool)
    return hint is Any or not isinstance(hint, type) or isinstance(value, hint)


def _made_again(instance: Any) -> Any:
    """Return an object made by its class's own constructor from the fields of the same names."""
    listed, named = list[Any](), dict[str, Any]()
    for name, parameter in inspect.signature(type(instance)).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            listed += getattr(instance, name)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            named[name] = getattr(instance, name)
        else:
            listed.append(getattr(instance, name))
    return type(instance)(*listed, **named)


def _check(instance: Any, argument: str) -> None:
    """Run the check of fields on an object that was built without its constructor."""
    try:
        if not type(instance).__dataclass_params__.init:  # checked by a constructor of its own
            if _made_again(instance) != instance:
                raise ValueError("its fields contradict each other")
        elif hasattr(instance, "__post_init__"):
            instance.__post_init__()
    except Exception as error:  # whatever it is: the values are not those that were saved
        got = f"a {type(instance).__name__} that is refused ({error})"
        raise CheckpointError(message(argument, got, "values as save() wrote them")) from error
