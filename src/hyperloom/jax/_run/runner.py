"""`Runner`: the target, the tensors that it keeps, and how its batches are run."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field, fields
from typing import Any, Self

from jax import Array

from hyperloom._core.choices.execution import Execution
from hyperloom._core.errors import a_kind, message
from hyperloom.jax._target.adaptor import Adaptor
from hyperloom.jax._target.variables import arrays_of


def check_execution(execution: Any) -> Execution:
    """Return an execution, if JAX can do what it says; raise otherwise."""
    a_kind("execution", execution, Execution, "an Execution(...)")
    if execution.strategy == "rows":
        wanted = "'auto', 'vmap' or 'loop' in JAX"
        way_out = "Rows of many conditions go into a call: hnet(x, condition=ids, rows=rows)."
        raise ValueError(message("execution", "the strategy 'rows'", wanted, way_out))
    return execution


@dataclass(eq=False)
class Memory:
    """What one hypernetwork remembers of its calls; results do not depend on it.

    Attributes:
        loops: Kinds of calls that cannot be run at once, and why.
        warned: What was warned of.
        anew: Names of what calls have made anew and returned beside the state.
    """

    loops: dict[Any, str] = field(default_factory=dict[Any, str])
    warned: set[str] = field(default_factory=set[str])
    anew: set[str] = field(default_factory=set[str])

    def warn(self, text: str, kind: type[Warning] = UserWarning) -> None:
        """Warn whoever called the hypernetwork, once."""
        if text not in self.warned:
            self.warned.add(text)
            warnings.warn(text, kind, stacklevel=_outside())


def _outside() -> int:
    """Return the stack level of the code that called the hypernetwork, for the caller's caller."""
    level, frame = 1, sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("hyperloom.", "jax.", "flax.")):
            return level
        level, frame = level + 1, frame.f_back
    return 2


@dataclass(frozen=True, eq=False)
class Runner:
    """What a hypernetwork runs.

    The modules belong to the hypernetwork, under these names; a runner only refers to them.

    Attributes:
        target: The target without its parameters.
        kept: The target's tensors that nothing generates, by name.
        execution: How batches are run.
        memory: What is remembered of calls.
    """

    target: Adaptor
    kept: Any
    execution: Execution
    memory: Memory

    @classmethod
    def of(cls, owner: Any) -> Self:
        """Return the runner whose parts are attributes of `owner`.

        Raises:
            TypeError: Its `execution` is none.
            ValueError: Its `execution` has a strategy that JAX does not have.
        """
        check_execution(owner.execution)
        return cls(**{field.name: getattr(owner, field.name) for field in fields(cls)})

    def modules(self) -> dict[str, Any]:
        """Return the modules by name."""
        return {"target": self.target, "kept": self.kept}

    def kept_tensors(self) -> dict[str, Array]:
        """Return the kept tensors as arrays."""
        return arrays_of(self.kept)
