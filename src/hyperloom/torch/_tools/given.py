"""Arguments that several tools take, checked."""

from __future__ import annotations

from torch import nn

from hyperloom._core.errors import message, shown
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._target.spec import uncompiled


def a_hypernetwork(argument: str, value: object) -> HyperNetwork:
    """Return `value` if it is a hypernetwork; raise `TypeError` otherwise.

    One that was compiled stands for the one inside.
    """
    inner = uncompiled(value) if isinstance(value, nn.Module) else value
    if not isinstance(inner, HyperNetwork):
        way_out = "Give the module that it wraps." if hasattr(value, "module") else ""
        raise TypeError(message(argument, shown(value), "a HyperNetwork", way_out))
    return inner
