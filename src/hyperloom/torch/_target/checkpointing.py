"""Activation checkpointing inside the target: seen while it runs.

`torch.utils.checkpoint` runs a part of the target again in the backward pass, when a call is over
and its tensors are no longer in place.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint as checkpointing
from torch.utils.checkpoint import CheckpointFunction

from hyperloom._core.errors import message
from hyperloom.torch._target.private import saving_hooks


class CheckpointedError(RuntimeError):
    """The target checkpoints activations, in the way that can be run exactly."""


class Watch(TorchFunctionMode):
    """Raises as soon as the target checkpoints activations.

    Args:
        target: The skeleton's module, for names.
        running: The module that is run, if it is one that keeps its tensors: then checkpointing is
            fine, but for the reentrant kind.
    """

    def __init__(self, target: nn.Module, running: nn.Module | None = None) -> None:
        super().__init__()
        self.target, self.running = target, running
        self.hooks = saving_hooks()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._C._set_grad_enabled:
            refuse_reentrant(self.running or self.target)
        if self.running is None and checkpointed(self.hooks):
            raise CheckpointedError("it checkpoints activations")
        return func(*args, **(kwargs or {}))


class WatchedParameters(dict[str, Any]):
    """The parameters of a module, which raise where code that is being checkpointed reads one.

    That costs next to nothing, so every call can have it. What it does not see is a parameter that
    was read before, outside of the checkpointed part.

    Args:
        values: Tensors by the module's own names.
        target: The skeleton's module, for names.
        hooks: `saving_hooks()` as the call began.
    """

    def __init__(self, values: Any, target: nn.Module, hooks: Any) -> None:
        super().__init__(values)
        self.target, self.hooks = target, hooks

    def __getitem__(self, key: str) -> Any:
        if not torch.is_grad_enabled() or saving_hooks() != self.hooks:
            self.look()
        return super().__getitem__(key)

    def items(self) -> Any:
        self.look()
        return super().items()

    def values(self) -> Any:
        self.look()
        return super().values()

    def look(self) -> None:
        """Raise if the code that runs now is being checkpointed.

        Raises:
            CheckpointedError: In the way that can be run exactly.
            ValueError: In the reentrant way.
        """
        if not torch.is_grad_enabled():
            refuse_reentrant(self.target)
        elif checkpointed(self.hooks):
            raise CheckpointedError("it checkpoints activations")


def checkpointed(start: Any) -> bool:
    """Whether a part is being checkpointed that was not when `start` were the hooks."""
    now = saving_hooks()
    return now is not None and now != start and now[0].__module__ == "torch.utils.checkpoint"


def refuse_reentrant(target: nn.Module) -> None:
    """Raise if the code that runs now is checkpointed in the reentrant way.

    That way takes no gradient for what the recomputed part finds by itself: generated tensors.

    Raises:
        ValueError: It is.
    """
    code = CheckpointFunction.forward.__code__
    frames = list(_frames(sys._getframe(1)))
    places = [i for i, frame in enumerate(frames) if frame.f_code is code]
    if not places:
        return
    paths = {id(m): repr(path) if path else type(m).__name__ for path, m in target.named_modules()}
    inner = [frame.f_locals.get("self") for frame in frames[places[0] :]]
    name = next((paths[id(part)] for part in inner if id(part) in paths), "")
    got = f"activation checkpointing with use_reentrant=True{f' in {name}' if name else ''}"
    way_out = (
        "In transformers: gradient_checkpointing_enable({'use_reentrant': False}). Or switch it "
        "off and checkpoint around the whole call: hnet.execution = Execution(recompute=True)."
    )
    raise ValueError(message("target", got, "use_reentrant=False", way_out))


def may_checkpoint(target: nn.Module) -> bool:
    """Whether the code of a target names a `checkpoint`, so that every call is to be watched.

    The models of transformers all have a method that switches it on; it counts where that was done.
    """
    parts = list(target.modules())
    if any(getattr(part, "gradient_checkpointing", False) is True for part in parts):
        return True
    kinds = {kind for part in parts for kind in type(part).__mro__}
    user_kinds = [kind for kind in kinds if not kind.__module__.startswith(("torch.", "builtins"))]
    functions = [
        f
        for kind in user_kinds
        for name, f in vars(kind).items()
        if isinstance(f, FunctionType) and not name.endswith("checkpointing_enable")
    ]
    return any(_names_checkpoint(f, code) for f in functions for code in _codes(f.__code__))


def is_of_torch_alone(target: nn.Module) -> bool:
    """Whether only code of `torch.nn` runs in a target: no layer of it checkpoints anything."""
    parts = list(target.modules())
    hooked = any(p._forward_hooks or p._forward_pre_hooks for p in parts)
    return not hooked and all(
        type(part).__module__.startswith("torch.nn.modules.")
        and all(map(_is_of_torch, vars(part).values()))
        for part in parts
    )


def _is_of_torch(value: Any) -> bool:
    """Whether an attribute is no function, or one of torch's."""
    if not callable(value) or isinstance(value, (nn.Module, BuiltinFunctionType)):
        return True
    return str(getattr(value, "__module__", "")).startswith("torch.")


def _names_checkpoint(function: FunctionType, code: CodeType) -> bool:
    """Whether one of the names in a function's code is `checkpoint`, or stands for it."""
    known = map(function.__globals__.get, code.co_names)
    return "checkpoint" in code.co_names or any(
        value is checkpointing or getattr(value, "__module__", "") == checkpointing.__name__
        for value in known
    )


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
