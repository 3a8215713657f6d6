"""What the target says of its inputs when it cannot take them, told so that it names them."""

from __future__ import annotations

import dis
import os
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from hyperloom._core.errors import message, shown
from hyperloom.torch._run.attempt import innermost
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.runner import Runner

# The classes that PyTorch's functions and layers raise for wrong arguments. Not their subclasses:
# memory that is out is none of these, nor is an error class of the target's own.
_OF_ARGUMENTS = (
    *(RuntimeError, TypeError, ValueError, IndexError),
    *(AssertionError, AttributeError, NotImplementedError),
)
_FRAMEWORK = os.path.dirname(torch.__file__)
# Memory that is out, what a transform cannot do with any input, and errors of ours.
_OF_OTHER_THINGS = ("allocate memory", "vmap:", "functorch", ": got ")


def name_inputs(error: Exception, runner: Runner, call: Call) -> None:
    """Raise an error that names the inputs, if they are what `error` is about; else return.

    A layer that gets an input of another width or dtype says so in words of its own, which name
    neither the input nor the layer. What the target's own code raises stays as it is.

    Raises:
        TypeError: An input that is no tensor, or a tensor of another dtype than the target's.
        ValueError: Any other error about arguments that PyTorch has raised in the target.
    """
    text = str(error)
    if type(error) not in _OF_ARGUMENTS or any(words in text for words in _OF_OTHER_THINGS):
        return
    if runner.execution.strategy == "vmap":  # asks for the framework's own error
        return
    given = {f"input {i}": value for i, value in enumerate(call.inputs)} | call.kwargs
    if not given or _raised_outside(error.__traceback__):
        return
    told = {name: shown(value) for name, value in given.items()}
    if len(told) == 1:
        ((argument, got),) = told.items()
    else:
        argument, got = "inputs", ", ".join(f"{name} {kind}" for name, kind in told.items())
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    where, name = innermost(runner.skeleton.module, frames), type(runner.skeleton.module).__name__
    lines = text.strip().splitlines() or [""]
    place = f" in {where}" if where and where != name else ""
    says = f"It raised{place} {type(error).__name__}: {lines[0]}"
    kind = TypeError if _of_another_kind(runner, given) else ValueError
    raise kind(message(argument, got, f"what {name} takes", says)) from error


def _raised_outside(trace: TracebackType | None) -> bool:
    """Whether it was raised by a `raise` (or `assert`) of the target's own code, or of ours.

    What a function of PyTorch's raises that is no Python code ends in the frame of its caller.
    """
    last = None
    while trace is not None:
        last, trace = trace, trace.tb_next
    if last is None or last.tb_frame.f_code.co_filename.startswith(_FRAMEWORK):
        return False
    operation = dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]]
    return operation in ("RAISE_VARARGS", "RERAISE")


def _of_another_kind(runner: Runner, given: Mapping[str, Any]) -> bool:
    """Whether no input is a tensor of a dtype that the target has or may look up with."""
    dtypes = {*runner.dtypes.values(), torch.int64, torch.int32}
    return not any(isinstance(v, Tensor) and v.dtype in dtypes for v in given.values())
