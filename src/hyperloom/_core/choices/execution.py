"""How a batch of conditions is run: which way, how many at a time, and what is computed again."""

from __future__ import annotations

from dataclasses import dataclass

from hyperloom._core.choice import Choice
from hyperloom._core.errors import a_bool, call_it, message, positive_int
from hyperloom._core.plan.plan import Plan


@dataclass(frozen=True, repr=False)
class Batching(Choice):
    """How the conditions of a batch are run: `Auto()`, `Vmap()` or `Loop()`."""


@dataclass(frozen=True, repr=False)
class Auto(Batching):
    """All conditions at once where that is exact, else one after the other. The default.

    What is chosen is said by `explain()`; the first time that conditions have to be run one after
    the other, a `SlowWarning` names the module that is the reason.
    """


@dataclass(frozen=True, repr=False)
class Vmap(Batching):
    """All conditions at once, always. What cannot be run so raises the framework's own error."""


@dataclass(frozen=True, repr=False)
class Loop(Batching):
    """One condition after the other, always, without a warning. Any target can be run so."""


class SlowWarning(UserWarning):
    """A batch of conditions is run by a slower way than the usual; the results are the same."""


@dataclass(frozen=True, repr=False)
class Execution(Choice):
    """How batches of conditions are run; the results are the same.

    Args:
        max_memory: Bytes that the generated tensors of one run may take, were they dense. A
            larger batch is run in several parts, one after the other. `None` (default) for all
            at once. While training, a bound on the peak needs `recompute` as well, because
            without it the backward pass keeps what every part has made.
        recompute: Generate and run again in the backward pass instead of keeping generated
            tensors and activations in between (activation checkpointing around the call): about
            a third more time, much less memory. Default False.
        batch: Which way: `Auto()` (default), `Vmap()` or `Loop()`.
        same_draws: Random draws inside the target (dropout masks) are made once and are the same
            for all conditions of a batch. Default False: each condition draws its own.

    Raises:
        TypeError: An argument of another class.
        ValueError: `max_memory` below 1.
    """

    max_memory: int | None = None
    recompute: bool = False
    batch: Batching = Auto()
    same_draws: bool = False

    def __post_init__(self) -> None:
        if self.max_memory is not None:
            positive_int("Execution(max_memory=)", self.max_memory)
        a_bool("Execution(recompute=)", self.recompute)
        a_bool("Execution(same_draws=)", self.same_draws)
        if not isinstance(self.batch, (Auto, Vmap, Loop)):
            way_out = call_it(self.batch, Batching)
            wanted = "Auto(), Vmap() or Loop()"
            raise TypeError(message("Execution(batch=)", self.batch, wanted, way_out))

    def conditions_at_once(self, plan: Plan, itemsize: int) -> int | None:
        """Return how many conditions one run takes, at least 1; `None` for all."""
        if self.max_memory is None:
            return None
        return max(1, self.max_memory // plan.output_bytes(1, itemsize))
