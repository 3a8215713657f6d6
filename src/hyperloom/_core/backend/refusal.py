"""Errors of a target about inputs that it cannot take, reworded so that they name the inputs."""

from __future__ import annotations

import dis
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from hyperloom._core.errors import message, shown

# The classes that frameworks raise for wrong arguments. Subclasses do not count: they are used for
# memory that has run out, and by targets for errors of their own.
_OF_ARGUMENTS = (
    *(RuntimeError, TypeError, ValueError, IndexError),
    *(AssertionError, AttributeError, NotImplementedError, OverflowError, ZeroDivisionError),
)
# Memory that has run out, what a transform cannot do with any input, and errors of ours.
_OF_OTHER_THINGS = (
    *("allocate memory", "vmap:", "vmap over", "Batching rule", "functorch", "Tracer", ": got "),
)


def is_about_arguments(error: Exception, framework: tuple[str, ...]) -> bool:
    """Whether an error is one that a framework raises for arguments that it cannot take.

    Args:
        error: What the target has raised.
        framework: Folders of the framework's own code. What the target's code raises itself, and
            what we do, is no such error.
    """
    text = str(error)
    if type(error) not in _OF_ARGUMENTS or any(words in text for words in _OF_OTHER_THINGS):
        return False
    return not _raised_outside(error.__traceback__, framework)


def _raised_outside(trace: TracebackType | None, framework: tuple[str, ...]) -> bool:
    """Whether it was raised by a `raise` (or `assert`) of code that is not the framework's.

    The traceback of an error raised in C ends in the Python function that called.
    """
    last = None
    while trace is not None:
        last, trace = trace, trace.tb_next
    if last is None or last.tb_frame.f_code.co_filename.startswith(framework):
        return False
    operation = dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]]
    return operation in ("RAISE_VARARGS", "RERAISE")


def named(
    error: Exception, given: Mapping[str, Any], target: str, where: str, of_another_kind: bool
) -> Exception:
    """Return an error that names the inputs, in the place of one that does not.

    Args:
        error: What the target has raised.
        given: Its inputs by name, at least one.
        target: Its class.
        where: The part of it that raised, if that can be told.
        of_another_kind: Whether the target could not take such inputs in any shape.
    """
    told = {name: shown(value) for name, value in given.items()}
    if len(told) == 1:
        ((argument, got),) = told.items()
    else:
        argument, got = "inputs", ", ".join(f"{name} {kind}" for name, kind in told.items())
    lines = str(error).strip().splitlines() or [""]
    place = f" in {where}" if where and where != target else ""
    says = f"It raised{place} {type(error).__name__}: {lines[0]}"
    kind = TypeError if of_another_kind else ValueError
    return kind(message(argument, got, f"what {target} takes", says))
