"""Plans as JSON: every frozen object is written as its class name and fields."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from hyperloom._core import records
from hyperloom._core.choices import conditions, forms, inits, layouts, statistics, trunks
from hyperloom._core.errors import CheckpointError, message
from hyperloom._core.plan import plan
from hyperloom._core.target import spec

_MODULES = (conditions, forms, inits, layouts, plan, records, spec, statistics, trunks)
_CLASSES: dict[str, type] = {
    cls.__name__: cls
    for module in _MODULES
    for cls in vars(module).values()
    if isinstance(cls, type) and is_dataclass(cls)
}


def to_json(value: Any) -> Any:
    """Return `value` (frozen objects, tuples, numbers, strings) as JSON data."""
    if is_dataclass(value) and not isinstance(value, type):
        data = {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
        return {"is": type(value).__name__, **data}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def from_json(data: Any) -> Any:
    """Return what `to_json` wrote.

    Raises:
        CheckpointError: A class that this version does not know, or fields that do not fit it.
    """
    if isinstance(data, list):
        return tuple(from_json(item) for item in data)
    if not isinstance(data, dict):
        return data
    name = data.get("is")
    cls = _CLASSES.get(str(name))
    if cls is None:
        raise CheckpointError(message("checkpoint", f"a {name!r} object", "objects known here"))
    made = object.__new__(cls)
    given = {key: from_json(value) for key, value in data.items() if key != "is"}
    wanted = {field.name for field in fields(cls)}
    if set(given) != wanted:
        got = f"a {name} with fields {sorted(given)}"
        raise CheckpointError(message("checkpoint", got, f"fields {sorted(wanted)}"))
    for key, value in given.items():
        object.__setattr__(made, key, _ENUMS.get((cls, key), lambda v: v)(value))
    return made


_ENUMS: dict[tuple[type, str], Any] = {
    (spec.TensorSpec, "role"): records.Role,
    (records.Head, "source"): records.Source,
}
