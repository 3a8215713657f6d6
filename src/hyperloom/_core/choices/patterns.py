"""Mixes by name pattern: in order, first match wins."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from hyperloom._core.errors import call_it, did_you_mean, message, shown
from hyperloom._core.target.spec import TargetSpec, TensorSpec

Choice = TypeVar("Choice")


def resolve(
    argument: str, choice: object, kind: type[Choice], spec: TargetSpec
) -> dict[str, Choice]:
    """Return which object of `kind` each tensor of `spec` gets.

    Args:
        argument: Name of the argument, for errors.
        choice: One object for all tensors, or a mapping from name patterns (`*`, `?`, `[...]`,
            as in `fnmatch`, case counts) to objects. A pattern matches a tied tensor at any of
            its names. Tensors that no pattern names are left out of the result.
        kind: Wanted class of the objects.
        spec: The target.

    Raises:
        TypeError: An object of another class.
        ValueError: A pattern that names no tensor; one that names only tensors that earlier
            patterns take; or two patterns that give the names of one tied tensor different
            objects.
    """
    if isinstance(choice, kind):
        return {tensor.name: choice for tensor in spec}
    wanted = f"a {kind.__name__} object or a dict from name patterns to them"
    if not isinstance(choice, Mapping):
        raise TypeError(message(argument, shown(choice), wanted, call_it(choice, kind)))
    if not choice:
        raise ValueError(message(argument, "an empty dict", wanted))
    for pattern, value in choice.items():
        if not isinstance(pattern, str) or not isinstance(value, kind):
            got = f"{pattern!r}: {shown(value)}"
            raise TypeError(message(argument, got, wanted, call_it(value, kind)))
    choice_of_name: dict[str, Choice] = {}
    by: dict[str, str] = {}
    for pattern, value in choice.items():
        taken_by = _take(argument, pattern, value, spec, choice_of_name, by)
        if taken_by:
            got = f"two choices for the same tensors: {pattern!r} names only what {taken_by!r} has"
            raise ValueError(
                message(argument, got, "at most one for each", "The first match wins: reorder.")
            )
    return choice_of_name


def _take(
    argument: str,
    pattern: str,
    value: Choice,
    spec: TargetSpec,
    choice_of_name: dict[str, Choice],
    by: dict[str, str],
) -> str | None:
    """Give `value` to what `pattern` names; return the pattern that had it all before, if one."""
    matched = [t for t in spec if any(fnmatchcase(name, pattern) for name in t.names)]
    if not matched:
        names = [name for tensor in spec for name in tensor.names]
        raise ValueError(
            message(
                argument,
                f"the pattern {pattern!r}, which names no tensor of {spec.name}",
                "a pattern that names at least one",
                did_you_mean(pattern, names),
            )
        )
    fresh = [tensor for tensor in matched if tensor.name not in choice_of_name]
    for tensor in matched:
        if tensor.name in choice_of_name:
            _refuse_split_tie(argument, pattern, by[tensor.name], value, choice_of_name, tensor)
    for tensor in fresh:
        choice_of_name[tensor.name] = value
        by[tensor.name] = pattern
    return None if fresh else by[matched[0].name]


def _refuse_split_tie(
    argument: str,
    pattern: str,
    earlier: str,
    value: object,
    choice_of_name: Mapping[str, object],
    tensor: TensorSpec,
) -> None:
    """Raise if two patterns reach one tied tensor by different names with different objects."""
    by_earlier = {n for n in tensor.names if fnmatchcase(n, earlier)}
    by_pattern = {n for n in tensor.names if fnmatchcase(n, pattern)}
    if not by_earlier & by_pattern and choice_of_name[tensor.name] != value:
        got = f"two choices for one tensor: {' and '.join(tensor.names)} are tied"
        raise ValueError(
            message(
                argument,
                f"{got}, {earlier!r} and {pattern!r} differ",
                "one choice for a tied tensor",
                f"Name it once, as {tensor.name!r}.",
            )
        )
