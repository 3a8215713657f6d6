"""Inputs of a target whose names are also those of the hypernetwork's own."""

from __future__ import annotations

from typing import Any


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
