"""What tells calls apart that may be run in different ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperloom.torch._run.call import Call
from hyperloom.torch._run.runner import Runner


def kind_of(runner: Runner, call: Call) -> Any:
    """Return what tells calls apart that may be run in different ways.

    The target's mode, whether gradients are taken, the method, and the kinds of the inputs: a
    target may well run at once in one of them only.
    """
    inputs = tuple(_kind_of(value) for value in call.inputs)
    modes = runner.skeleton.module.training, torch.is_grad_enabled(), call.method, call.by is None
    kwargs = tuple((key, _kind_of(value)) for key, value in call.kwargs.items())
    return modes, inputs, kwargs


def _kind_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.ndim, value.is_meta, value.numel() == 0  # nothing in it, nothing learned
    return value if isinstance(value, (bool, type(None))) else type(value)
