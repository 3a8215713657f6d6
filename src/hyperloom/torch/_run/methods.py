"""Methods of the target that are asked for by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from hyperloom._core.errors import did_you_mean, message


def check_method(target: nn.Module, name: Any, error: type[Exception] = ValueError) -> None:
    """Raise for a method that a target does not have.

    Raises:
        TypeError: No name.
        ValueError: No such method; or `error`, where it was asked for as an attribute.
    """
    if not isinstance(name, str):
        raise TypeError(message("method", name, "the name of a method of the target"))
    if callable(getattr(target, name, None)):
        return
    known = [n for n in dir(target) if not n.startswith("_") and callable(getattr(target, n, None))]
    public = [n for n in known if not hasattr(nn.Module, n)]
    got, wanted = f"{name!r}", f"a method of {type(target).__name__}"
    raise error(message("method", got, wanted, did_you_mean(name, public or known)))
