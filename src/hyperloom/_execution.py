"""How a batch of conditions is run: how many at a time, and what is computed again."""

from __future__ import annotations

from dataclasses import dataclass

from hyperloom._choice import Choice
from hyperloom._errors import message, positive_int
from hyperloom._plan import Plan


@dataclass(frozen=True, repr=False)
class Execution(Choice):
    """Bounds the memory of a batch of conditions; the results are the same.

    Args:
        max_memory: Bytes that the generated tensors of one run may take, were they dense. A
            larger batch is run in several parts, one after the other. `None` (default) for all
            at once. While training, a bound on the peak needs `recompute` as well, because
            without it the backward pass keeps what every part has made.
        recompute: Generate again in the backward pass instead of keeping generated tensors and
            activations in between: about a third more time, much less memory. Default False.

    Raises:
        ValueError: `max_memory` below 1.
    """

    max_memory: int | None = None
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.max_memory is not None:
            positive_int("Execution(max_memory=)", self.max_memory)
        if not isinstance(self.recompute, bool):
            raise TypeError(message("Execution(recompute=)", self.recompute, "a bool"))

    def conditions_at_once(self, plan: Plan, itemsize: int) -> int | None:
        """Return how many conditions one run takes, at least 1; `None` for all."""
        if self.max_memory is None:
            return None
        return max(1, self.max_memory // plan.output_bytes(1, itemsize))
