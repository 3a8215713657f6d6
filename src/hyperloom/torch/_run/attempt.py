"""Ways of running that may fail: tried once for each kind of call, and the loop in their place."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import Tensor, nn

from hyperloom.torch._rules.hidden import OneByOneError
from hyperloom.torch._run.alone import ENDS_THE_CALL
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.check import Alone
from hyperloom.torch._run.kinds import kind_of
from hyperloom.torch._run.memory import LOOP, SLOW, Fallback
from hyperloom.torch._run.route import Route
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._run.strategies import STRATEGIES
from hyperloom.torch._run.watching import ChangedError
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._target.checkpointing import CheckpointedError
from hyperloom.torch._target.copies import Copies, Draws
from hyperloom.torch._target.functions import NotAtOnceError
from hyperloom.torch._target.outliving import OutlivesError
from hyperloom.torch._target.private import inside_transform, warn_of_slow_operations
from hyperloom.torch._target.trace import Trace
from hyperloom.torch._weights.rows import NotRowsError

_LONGEST = 160


def attempt(
    runner: Runner,
    way: Route,
    weights: Mapping[str, Any],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    """Run a target in a way that may fail; where it does, leave no trace and run the loop."""
    memory, kind = runner.memory, kind_of(runner, call)
    module, inputs = runner.skeleton.module, (call.inputs, call.kwargs)
    trace, draws, copies = Trace(module.named_modules(), inputs), Draws(), Copies(inputs)
    # In a transform of torch.func values cannot be read: the next call outside of one is checked.
    checks = way.strategy == "vmap" and not way.checked and not inside_transform()
    alone = Alone(runner, weights, shared, call, buffers) if checks else None
    output, error = None, None
    with SlowOperations(module) as slow:
        try:
            output = way.run(runner, weights, shared, call.over(copies), buffers)
            change = trace.changed()
            differs = alone.differs(output) if alone is not None and change is None else ""
            if change is not None:
                error = ChangedError(change)
            elif differs:
                error = NotAtOnceError(f"{type(module).__name__}: {differs}")
        except ENDS_THE_CALL:
            raise
        except Exception as caught:  # whatever it is, the loop runs the target as it stands
            error = caught
    if error is not None:
        with runner.skeleton.lock:
            trace.restore()
        draws.restore()
        return run_instead(error, runner, weights, shared, call, buffers)
    copies.give_back()
    memory.at_once.add(kind)
    memory.checked.update([kind] if checks else [])
    memory.slow[kind] = slow.noted()
    memory.routes.clear()
    memory.say(SLOW, *memory.slow[kind])
    return output


def run_instead(
    error: Exception,
    runner: Runner,
    weights: Mapping[str, Any],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    """Run on rows, or the loop, in the place of what has failed, and remember it.

    Not the first time that a target changes what it keeps, or that more refers to its modules than
    did: it may do so once in its life, and then run at once.
    """
    memory, kind = runner.memory, kind_of(runner, call)
    fallback = reason_of(error, runner.skeleton.module)
    once = (
        isinstance(error, (OneByOneError, OutlivesError))
        or len(call.batch) != 1
        or call.by is not None
    )
    if not once and kind not in memory.on_rows:
        try:
            output = STRATEGIES["rows"](runner, weights, shared, call, buffers)
        except (NotAtOnceError, NotRowsError):
            pass  # the first reason is the one to tell
        else:
            memory.on_rows[kind] = fallback
            memory.routes.clear()
            return output
    output = STRATEGIES["loop"](runner, weights, shared, call, buffers)
    memory.say(LOOP, fallback)
    if isinstance(error, (ChangedError, OutlivesError)) and kind not in memory.changed:
        memory.changed.add(kind)
        return output
    # Only now: a call that fails both ways is an error.
    memory.fallbacks[kind] = fallback
    memory.routes.clear()
    return output


def reason_of(error: Exception, target: nn.Module) -> Fallback:
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
    """

    def __init__(self, target: nn.Module) -> None:
        self.target = target
        self.seen: dict[Fallback, None] = {}

    def __enter__(self) -> SlowOperations:
        self.guard = warnings.catch_warnings()
        self.guard.__enter__()
        warnings.filterwarnings("always", message=_PERFORMANCE)
        self.show = warnings.showwarning
        warnings.showwarning = self._show
        return self

    def __exit__(self, *error: object) -> None:
        self.guard.__exit__(None, None, None)

    def noted(self) -> tuple[Fallback, ...]:
        """Return what was noted."""
        return tuple(self.seen)

    def _show(self, text: Any, *args: Any, **kwargs: Any) -> None:
        if not str(text).startswith(_PERFORMANCE):
            self.show(text, *args, **kwargs)
            return
        operation = str(text).partition("batching rule for ")[2].partition(". ")[0]
        frames = [frame for frame, _ in traceback.walk_stack(sys._getframe(1))][::-1]
        slow = Fallback(innermost(self.target, frames), f"vmap has no rule for {operation}")
        self.seen[slow] = None


@contextmanager
def quietly() -> Generator[None]:
    """Let `vmap` not warn again of what was noted in an earlier call."""
    warn_of_slow_operations(False)
    try:
        yield
    finally:
        warn_of_slow_operations(True)


_PERFORMANCE = "There is a performance drop"


def innermost(target: nn.Module, frames: Iterable[FrameType]) -> str:
    """Return path and class of the module of the target in whose code the last frame is."""
    paths = {id(module): path for path, module in target.named_modules()}
    described = ""
    for frame in frames:
        if frame.f_globals.get("__name__", "").startswith("hyperloom."):
            continue  # asking for its variables would keep them
        module = frame.f_locals.get("self")
        if id(module) in paths and isinstance(module, nn.Module):
            path = paths[id(module)]
            described = f"{path!r} ({type(module).__name__})" if path else type(module).__name__
    return described
