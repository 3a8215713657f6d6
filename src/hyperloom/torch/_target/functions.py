"""Functions with a backward pass of the user's own (`torch.autograd.Function`), seen as they run.

What they are given is looked at in C++: a stand-in for a generated weight counts there as a tensor
that needs no gradient, and the gradient would be lost without a word.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import BackwardCFunction

from hyperloom.torch._target.placeholder import PlaceholderError

_CODES = (Function.apply.__func__.__code__, BackwardCFunction.apply.__code__)  # type: ignore[attr-defined]


class NotAtOnceError(RuntimeError):
    """The target cannot be run for all conditions at once; the text says why."""


class InFunctionError(PlaceholderError):
    """A stand-in for a generated weight was used inside a function with a backward of its own."""


def refuse_in_function(grad: bool) -> None:
    """Raise where a stand-in is used by a function with a backward pass of its own.

    Args:
        grad: Whether gradients are taken where the stand-in was made. Inside such functions none
            are, and elsewhere nothing is asked.

    Raises:
        InFunctionError: It is.
    """
    if not grad or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code in _CODES:
            raise InFunctionError(
                "a torch.autograd.Function uses a generated weight, which is to be formed for it"
            )
        if frame.f_globals.get("__name__", "").startswith("hyperloom.torch._run"):
            return  # what is around the call is the user's
        frame = frame.f_back
