"""What one hypernetwork remembers of its calls. Results do not depend on it."""

from __future__ import annotations

import copy
import sys
import warnings
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from hyperloom._core.choices.execution import SlowWarning

if TYPE_CHECKING:
    from hyperloom.torch._run.route import Route

_MOST = 256


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


LOOP = (
    "target: {}. The conditions are run one after the other: the results are the same, the time is "
    'longer. If this is meant, say so: hnet.execution = Execution(strategy="loop").'
)
SLOW = (
    "target: {} and runs it one condition after the other: the results are the same, the time is "
    "longer. If this is meant, filter hyperloom's SlowWarning."
)


@dataclass
class Memory:
    """What is remembered, by kinds of calls.

    Attributes:
        routes: Which way a call goes, by the sizes of its inputs.
        fallbacks: What cannot be run at once, and why.
        at_once: What has been run at once. Apart from `fallbacks`, because a compiled call depends
            on those, and not on what was tried meanwhile.
        checked: What of it was compared with one condition alone.
        slow: What of it is run by slow operations.
        rows: By kind of call, its examination for a run on rows.
        on_rows: What is run on rows because it cannot be run under `vmap`, and why.
        in_factors: Whether one condition can be run without forming what comes in factors.
        not_on_rows: What was not, though conditions repeat.
        compared: Modes in which buffers were compared after a run under `vmap`.
        watched: What was watched for writes into weights.
        changed: What has once changed something that the target keeps.
        used: By kind of call, the generated tensors that the target's code uses.
        formed: Calls (with their sizes) in which every layer forms its weight.
        said: What was warned of.
    """

    routes: dict[Any, Route] = field(default_factory=dict)
    fallbacks: dict[Any, Fallback] = field(default_factory=dict)
    at_once: set[Any] = field(default_factory=set)
    checked: set[Any] = field(default_factory=set)
    slow: dict[Any, tuple[Fallback, ...]] = field(default_factory=dict)
    rows: dict[Any, Any] = field(default_factory=dict)
    on_rows: dict[Any, Fallback] = field(default_factory=dict)
    in_factors: dict[Any, bool] = field(default_factory=dict)
    not_on_rows: set[Any] = field(default_factory=set)
    compared: set[Any] = field(default_factory=set)
    watched: set[Any] = field(default_factory=set)
    changed: set[Any] = field(default_factory=set)
    used: dict[Any, frozenset[str]] = field(default_factory=dict)
    formed: set[Any] = field(default_factory=set)
    said: set[Any] = field(default_factory=set)

    def copy(self) -> Memory:
        """Return the same memory, which then remembers by itself."""
        return Memory(*(copy.copy(getattr(self, part.name)) for part in fields(self)))

    def keep(self, kind: Any, route: Route) -> Route:
        """Remember a route, a bounded number of them; return it."""
        if len(self.routes) >= _MOST:
            self.routes.clear()
        self.routes[kind] = route
        return route

    def form(self, kind: Any) -> None:
        """Remember that every layer of such calls forms its weight; forget their route."""
        if len(self.formed) >= _MOST:
            self.formed.clear()
        self.formed.add(kind)
        self.routes.pop(kind, None)

    def say(self, text: str, *fallbacks: Fallback) -> None:
        """Warn once of each finding that something is run by a slower way."""
        for fallback in fallbacks:
            if fallback not in self.said:
                self.said.add(fallback)
                warnings.warn(text.format(fallback), SlowWarning, stacklevel=outside())

    def warn(self, text: str) -> None:
        """Warn once."""
        if text not in self.said:
            self.said.add(text)
            warnings.warn(text, stacklevel=outside())


def outside() -> int:
    """Return the stack level of the code that called the hypernetwork."""
    level, frame = 1, sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("hyperloom.", "torch.")):
            return level
        level, frame = level + 1, frame.f_back
    return 2
