"""Errors of PyTorch about inputs of the target, reworded so that they name the inputs."""

from __future__ import annotations

import os
import traceback

import torch
from torch import Tensor

from hyperloom._core.backend.refusal import is_about_arguments, named
from hyperloom.torch._run.attempt import innermost
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.runner import Runner

_TORCH = (os.path.dirname(torch.__file__),)


def name_inputs(error: Exception, runner: Runner, call: Call) -> None:
    """Raise an error that names the inputs, if they are what `error` is about; else return.

    PyTorch's error for an input of another width or dtype names neither the input nor the layer.
    What the code of the target raises stays as it is.

    Raises:
        TypeError: An input that is no tensor, or a tensor of another dtype than the target's.
        ValueError: Any other error about arguments that PyTorch has raised in the target.
    """
    given = {f"input {i}": value for i, value in enumerate(call.inputs)} | call.kwargs
    # The strategy "vmap" asks for the error of the framework.
    if not given or runner.execution.strategy == "vmap" or not is_about_arguments(error, _TORCH):
        return
    module = runner.skeleton.module
    where = innermost(module, [frame for frame, _ in traceback.walk_tb(error.__traceback__)])
    dtypes = {*runner.dtypes.values(), torch.int64, torch.int32}  # those of ids to look up with
    tensors = [value.dtype for value in given.values() if isinstance(value, Tensor)]
    other = not any(dtype in dtypes for dtype in tensors)
    raise named(error, given, type(module).__name__, where, other) from error
