"""No call writes into what outlives it: the user's module, a learned row, a condition.

What a target writes into its weights holds for one condition in one call, as in a network that was
made for it. The first call of a kind is watched; a target that writes is run again, with copies of
the weights in question, and is given copies from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from hyperloom._core.errors import message
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._target.copies import Copies, Draws
from hyperloom.torch._target.functions import InFunctionError
from hyperloom.torch._target.trace import Trace
from hyperloom.torch._target.writes import (
    Writes,
    WrittenError,
    is_stand_in,
    lies_in,
    memory_of,
    versions,
)


def first_run(
    runner: Runner,
    module: nn.Module,
    inputs: Any,
    run: Callable[[Any], Any],
    again: Callable[[set[str]], None],
    form: Callable[[], None] | None = None,
) -> Any:
    """Run a call of a kind that was not seen yet; where it writes into weights, once more.

    Args:
        runner: What runs the target.
        module: The copy of the target that is run, whose attributes are put back in between.
        inputs: What the target is given.
        run: Runs the target; is given `inputs` or copies of them.
        again: Is told the names of the weights, before the call is run again.
        form: Puts tensors in the place of stand-ins, for a function of the user's own that is run
            again with them.
    """
    stores = runner.skeleton.code.may_store  # else nothing is to be put back
    trace = Trace(module.named_modules(), inputs) if stores else None
    draws = Draws()
    while True:
        copies, watch = Copies(inputs if stores else ()), Writes()
        try:
            with watch:
                output = run(copies if stores else None)
        except WrittenError:
            output = None
        except InFunctionError:
            if form is None:
                raise
            form()
            form, output = None, None
            _put_back(runner, trace, draws)
            continue
        except RuntimeError as error:
            # Autograd has refused a write into a view first, and does not say into which.
            watch.found.update(watch.names - runner.kept().keys())
            if not watch.found or not _is_of_views(error):
                raise
            output = None
        if not watch.found:
            copies.give_back()
            runner.skeleton.was_watched = True
            return output
        del output
        _put_back(runner, trace, draws)
        tell_of(runner, watch.found)
        again(watch.found)


def _put_back(runner: Runner, trace: Trace | None, draws: Draws) -> None:
    with runner.skeleton.lock:
        if trace is not None:
            trace.restore()
    draws.restore()


def _is_of_views(error: RuntimeError) -> bool:
    text = str(error)
    return "view" in text and ("in-place" in text or "inplace" in text)


def tell_of(runner: Runner, names: set[str]) -> None:
    """Note that a target writes into weights."""
    runner.skeleton.written.update(names)
    runner.memory.routes.clear()
    kept = runner.kept()
    for name in sorted(names):
        if name in kept:
            runner.memory.warn(
                f"target: it writes into its tensor {name!r}, which is kept: every call, and every "
                "condition, writes into a copy of its own, and what is written is gone after the "
                "call. What is to last belongs in a buffer."
            )


def handed(weights: Mapping[str, Any], shared: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Return the tensors that a run is given, in parts or not, by name."""
    parts = [
        (name, part)
        for name, weight in weights.items()
        for part in ((weight,) if isinstance(weight, Tensor) else weight.owned)
        if not is_stand_in(part)
    ]
    return [*shared.items(), *parts]


def refuse_late(
    runner: Runner,
    given: list[tuple[str, Tensor]],
    before: list[int],
    theirs: tuple[Tensor, ...] = (),
) -> None:
    """Raise if a call has written into memory that outlives it.

    The first call of its kind did not, or this one would have had copies.

    Args:
        runner: What runs the target.
        given: Tensors that the target was given.
        before: Their versions before the call.
        theirs: Tensors of the user's that they may be views of.

    Raises:
        RuntimeError: It has.
    """
    now = versions(value for _, value in given)
    if now == before:
        return
    kept = runner.kept()
    learned = (t for m in runner.modules.values() if m is not None for t in m.parameters())
    lasting = memory_of([*kept.values(), *learned, *theirs])
    changed = {
        name
        for (name, value), old, new in zip(given, before, now, strict=True)
        if old != new and lies_in(value, lasting) and name not in runner.skeleton.written
    }
    if not changed:
        return
    tell_of(runner, changed)
    name = min(changed)
    whose = "the module that the hypernetwork was made of" if name in kept else "what is learned"
    got = f"a write into its tensor {name!r}, which calls before this one did not make"
    way_out = f"This call has changed {whose}; later ones write into copies."
    raise RuntimeError(message("target", got, "writes in the first call of a kind", way_out))
