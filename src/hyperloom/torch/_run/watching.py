"""All conditions at once, watched: what the target keeps from call to call is as it was."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from hyperloom.torch._rules.hidden import OneByOneError
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.runner import Runner


class ChangedError(OneByOneError):
    """The target has changed what it keeps from call to call; that is as it was again."""


@contextmanager
def watched(runner: Runner, call: Call) -> Generator[None]:
    """Refuse a target that would be run once where it is to be run for each condition.

    Costs nothing where the target's code says that it keeps nothing.

    Raises:
        ChangedError: It has changed what it keeps.
        OneByOneError: It has hooks on gradients, or sets the generators of random numbers.
    """
    if torch.compiler.is_compiling():
        yield
        return
    skeleton = runner.skeleton
    hidden = skeleton.code.hooks_on_gradients() or skeleton.code.seeds
    if hidden is not None:
        raise OneByOneError(f"it uses {hidden}, for each condition by itself")
    with skeleton.watching((call.inputs, call.kwargs)) as trace:
        yield
    change = None if trace is None else trace.changed()
    if trace is not None and change is not None:
        with skeleton.lock:
            trace.restore()
        raise ChangedError(change)
