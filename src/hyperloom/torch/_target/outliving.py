"""Modules that are used after the call: by what the target returns, or in the backward pass.

A function of the user's own that runs a part of the target again (a checkpoint, an adjoint of an
ODE, an implicit layer) holds on to modules, and so does a distribution that is evaluated later.
"""

from __future__ import annotations

import gc
import sys

from torch import nn

from hyperloom.torch._target.functions import NotAtOnceError


class OutlivesError(NotAtOnceError):
    """What the target returns holds on to its modules."""

    def __init__(self) -> None:
        super().__init__("it uses its modules when the call is over")


class References:
    """How often the modules of a target are referred to, before a call.

    Args:
        parts: The modules.
    """

    def __init__(self, parts: list[nn.Module]) -> None:
        self.parts = parts
        self.before = self._now()

    def _now(self) -> list[int]:
        return [sys.getrefcount(part) for part in self.parts]

    def more(self) -> bool:
        """Whether there are more by now, beside those in cycles, which nothing uses."""
        if not self._more():
            return False
        gc.collect()
        return self._more()

    def _more(self) -> bool:
        return any(now > before for now, before in zip(self._now(), self.before, strict=True))
