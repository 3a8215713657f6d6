"""Choosing how a batch of conditions is run, and saying so."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import _StopRecomputationError

from hyperloom._core.choices.execution import SlowWarning
from hyperloom.torch._private import warn_of_slow_operations
from hyperloom.torch._run.call import Chosen
from hyperloom.torch._run.loop import run_loop
from hyperloom.torch._run.vmap import NotAtOnceError, run_vmap
from hyperloom.torch._target.attributes import Attributes
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._target.checkpointing import CheckpointedError
from hyperloom.torch._weights.weights import Weight

if TYPE_CHECKING:
    from hyperloom.torch._run.call import Call
    from hyperloom.torch._run.runner import Runner

_LONGEST = 160


@dataclass(frozen=True)
class Fallback:
    """Why a target is run one condition after the other.

    Attributes:
        module: Path and class of the module that is the reason; `""` where none can be told.
        why: What it does, or the error it gave.
    """

    module: str
    why: str

    def __str__(self) -> str:
        return f"{self.module}: {self.why}" if self.module else self.why


class Strategist:
    """Runs batches of one hypernetwork, and remembers what cannot be run at once.

    Calls are told apart by the target's mode, whether gradients are taken, and the kinds of the
    inputs: a target may well run at once in one of them only.
    """

    def __init__(self) -> None:
        self.fallbacks: dict[Any, Fallback] = {}
        # Apart: a compiled call depends on what is a fallback, not on what was tried meanwhile.
        self.at_once: set[Any] = set()
        self.said: set[Fallback] = set()
        self.slow: dict[Any, tuple[Fallback, ...]] = {}

    def run(
        self,
        runner: Runner,
        weights: Mapping[str, Weight],
        kept: Mapping[str, Tensor],
        call: Call,
        buffers: Buffers,
        chosen: Chosen,
    ) -> Any:
        """Run the target on a batch of conditions."""
        batching = runner.execution.strategy
        if batching == "loop":
            chosen.strategy, chosen.reason = "loop", 'Execution(strategy="loop") asks for it'
            return run_loop(runner, weights, kept, call, buffers)
        if batching == "vmap":
            chosen.reason = 'Execution(strategy="vmap") asks for it'
            return run_vmap(runner, weights, kept, call, buffers)
        key = _kind(runner, call)
        fallback = self.fallbacks.get(key)
        ordered = buffers.in_order()
        if ordered is not None:  # true of these conditions, not of all calls of the kind
            fallback = Fallback("", f"two conditions of one id write its buffer {ordered!r}")
            self._say(_LOOP, fallback)
        elif fallback is None:
            if torch.compiler.is_compiling():
                return run_vmap(runner, weights, kept, call, buffers)
            with SlowOperations(runner.skeleton.module, self.slow.get(key)) as slow:
                made = self._try(runner, weights, kept, call, buffers, key in self.at_once)
            if not isinstance(made, Fallback):
                if key not in self.at_once:
                    self.at_once.add(key)
                    self.slow[key] = slow.found()
                    self._say(_SLOW, *self.slow[key])
                chosen.slow = tuple(map(str, self.slow[key]))
                return made
            fallback = made
        chosen.strategy, chosen.reason = "loop", f"one after the other, because of {fallback}"
        chosen.slow = (str(fallback),)
        made = run_loop(runner, weights, kept, call, buffers)
        new = key not in self.fallbacks and ordered is None
        if new and not torch.compiler.is_compiling():
            self.fallbacks[key] = fallback  # only now: a call that fails both ways is an error
            self._say(_LOOP, fallback)
        return made

    def _say(self, text: str, *found: Fallback) -> None:
        """Warn once for each finding."""
        for fallback in found:
            if fallback not in self.said:
                self.said.add(fallback)
                warnings.warn(text.format(fallback), SlowWarning, stacklevel=outside())

    def _try(
        self,
        runner: Runner,
        weights: Mapping[str, Weight],
        kept: Mapping[str, Tensor],
        call: Call,
        buffers: Buffers,
        known: bool,
    ) -> Any:
        """Run at once; return a `Fallback` where that fails."""
        watched = None if known else Attributes(runner.skeleton.module)
        try:
            made = run_vmap(runner, weights, kept, call, buffers)
            found = watched.kept() if watched is not None else None
            if found is None:
                return made
            error: Exception = NotAtOnceError(found)
        # The second is how a recomputation ends that was started by checkpointing around the call.
        except (torch.OutOfMemoryError, _StopRecomputationError):
            raise
        except Exception as caught:
            error = caught
        if watched is not None:
            with runner.skeleton.lock:
                watched.restore()
        return _fallback(error, runner.skeleton.module)


def _kind(runner: Runner, call: Call) -> Any:
    """Return what tells calls apart that may be run in different ways."""
    inputs = tuple(_kind_of(value) for value in call.inputs)
    kwargs = tuple((key, _kind_of(value)) for key, value in call.kwargs.items())
    return runner.skeleton.module.training, torch.is_grad_enabled(), inputs, kwargs


def _kind_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.ndim
    return value if isinstance(value, (bool, type(None))) else type(value)


def _fallback(error: Exception, target: nn.Module) -> Fallback:
    """Name the module in whose forward an error was raised."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    text = " ".join(str(error).split())
    if not isinstance(error, (NotAtOnceError, CheckpointedError)):
        short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
        text = f"{type(error).__name__} ({short})"
    return Fallback(innermost(target, frames), text)


class SlowOperations:
    """Notes what `vmap` runs one condition after the other, in place of PyTorch's own warnings.

    Args:
        target: The skeleton's module, for names.
        known: What was noted in an earlier call, and is passed over in silence; `None` to note it.
    """

    def __init__(self, target: nn.Module, known: tuple[Fallback, ...] | None) -> None:
        self.target, self.listen, self.quiet = target, known is None, bool(known)
        self.seen: dict[Fallback, None] = {}

    def __enter__(self) -> SlowOperations:
        if self.listen:
            self.guard = warnings.catch_warnings()
            self.guard.__enter__()
            warnings.filterwarnings("always", message=_PERFORMANCE)
            self.show = warnings.showwarning
            warnings.showwarning = self._show
        if self.quiet:
            warn_of_slow_operations(False)
        return self

    def __exit__(self, *error: object) -> None:
        if self.listen:
            self.guard.__exit__(None, None, None)
        if self.quiet:
            warn_of_slow_operations(True)

    def found(self) -> tuple[Fallback, ...]:
        """Return what was noted."""
        return tuple(self.seen)

    def _show(self, text: Any, *args: Any, **kwargs: Any) -> None:
        if not str(text).startswith(_PERFORMANCE):
            self.show(text, *args, **kwargs)
            return
        operation = str(text).partition("batching rule for ")[2].partition(". ")[0]
        frames = [frame for frame, _ in traceback.walk_stack(sys._getframe(1))][::-1]
        self.seen[Fallback(innermost(self.target, frames), f"vmap has no rule for {operation}")] = (
            None
        )


_PERFORMANCE = "There is a performance drop"
_LOOP = (
    "target: {}. The conditions are run one after the other: the results are the same, the time is "
    'longer. If this is meant, say so: hnet.execution = Execution(strategy="loop").'
)
_SLOW = (
    "target: {} and runs it one condition after the other: the results are the same, the time is "
    "longer. If this is meant, filter hyperloom's SlowWarning."
)


def innermost(target: nn.Module, frames: Iterable[FrameType]) -> str:
    """Return path and class of the module of the target in whose code the last frame is."""
    paths = {id(module): path for path, module in target.named_modules()}
    found = ""
    for frame in frames:
        module = frame.f_locals.get("self")
        if id(module) in paths and isinstance(module, nn.Module):
            path = paths[id(module)]
            found = f"{path!r} ({type(module).__name__})" if path else type(module).__name__
    return found


def outside() -> int:
    """Return the stack level of the code that called the hypernetwork."""
    level, frame = 1, sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("hyperloom.", "torch.")):
            return level
        level, frame = level + 1, frame.f_back
    return 2
