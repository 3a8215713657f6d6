"""Inputs of a target: which entry says how each pairs; names that the hypernetwork has too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hyperloom._core.errors import did_you_mean, message


class Inputs:
    """All inputs of the target in one object, whatever their names.

    A target that takes keywords that `HyperNetwork.forward` has itself (`condition`, `in_dims`),
    such as another hypernetwork, gets them so: `hnet(hl.Inputs(x, condition=task), condition=c)`.

    Args:
        *args: Positional inputs of the target.
        **kwargs: Its keyword inputs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def __repr__(self) -> str:
        shown = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        return f"Inputs({', '.join(shown)})"


def unpacked(
    inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the target's inputs out of an `Inputs` that stands alone, or as they are."""
    if len(inputs) == 1 and type(inputs[0]) is Inputs and not kwargs:
        return inputs[0].args, inputs[0].kwargs
    return inputs, kwargs


def entries_of(
    argument: str, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], given: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the entry of every input, positional ones and keywords.

    Args:
        argument: `in_dims` or `in_axes`.
        inputs: Positional inputs.
        kwargs: Keyword inputs.
        given: One entry for all; a tuple with one for each positional input; or a dict from places
            and keywords to entries, 0 for what it does not name.

    Raises:
        ValueError: A tuple of another length, or a key that names no input.
    """
    if isinstance(given, Mapping):
        known = (*range(len(inputs)), *kwargs)
        for name in given:
            if name not in known:
                got, wanted = f"the key {name!r}", "places and keywords of inputs of this call"
                way_out = did_you_mean(name, map(str, known))
                raise ValueError(message(argument, got, wanted, way_out))
        places = tuple([given.get(i, 0) for i in range(len(inputs))])
        return places, {name: given.get(name, 0) for name in kwargs}
    if isinstance(given, (tuple, list)):
        if len(given) != len(inputs):
            got = f"{len(given)} entries for {len(inputs)} inputs"
            raise ValueError(message(argument, got, "an entry for each positional input"))
        return tuple(given), dict.fromkeys(kwargs, 0)
    return (given,) * len(inputs), dict.fromkeys(kwargs, given)


def check_entries(argument: str, name: str, given: Iterable[Any], parts: Iterable[Any]) -> None:
    """Raise `ValueError` unless entries are there for all parts of an input and for nothing else.

    Args:
        argument: `in_dims` or `in_axes`.
        name: The input, as errors call it.
        given: Keys of the entries.
        parts: Keys of the parts.
    """
    given_keys, wanted = list(given), list(parts)
    for key in (*given_keys, *wanted):
        if key in given_keys and key in wanted:
            continue
        got = f"{'an' if key in given_keys else 'no'} entry for {key!r} in those for {name}"
        way_out = "None stands for what all conditions share."
        raise ValueError(message(argument, got, f"an entry for each of {wanted}", way_out))
