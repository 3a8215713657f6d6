"""Whose running statistics a generated network has: objects without a framework."""

from __future__ import annotations

from dataclasses import dataclass

from hyperloom._core.choice import Choice
from hyperloom._core.errors import message


@dataclass(frozen=True, repr=False)
class Statistics(Choice):
    """What becomes of the running statistics of norms (BatchNorm, InstanceNorm) in the target."""


@dataclass(frozen=True, repr=False)
class PerConditionStatistics(Statistics):
    """Each id has statistics of its own, as separate networks would have.

    They are kept in a table by id, start out as the target's own, and are part of the state dict
    and of checkpoints. Needs a condition with ids. The default where there are ids.

    Args:
        also: Name patterns of further buffers of the target that are kept by id, e.g.
            `"codebook.*"`. The vectors of `spectral_norm` are always among them.

    Raises:
        TypeError: `also` is not one or several strings.
    """

    also: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = (self.also,) if isinstance(self.also, str) else self.also
        if not isinstance(given, (tuple, list)) or not all(isinstance(p, str) for p in given):
            wanted = "a name pattern or a tuple of them"
            raise TypeError(message("PerConditionStatistics(also=)", self.also, wanted))
        object.__setattr__(self, "also", tuple(given))


@dataclass(frozen=True, repr=False)
class SharedStatistics(Statistics):
    """One set of statistics for all conditions. The default where there are no ids.

    A batch of conditions updates them as one condition after the other would, in order.
    """


@dataclass(frozen=True, repr=False)
class BatchStatistics(Statistics):
    """No running statistics: norms normalise by the batch at hand, in `eval()` too."""
