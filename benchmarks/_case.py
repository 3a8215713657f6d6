"""What a benchmark is made of: cases, workloads, contestants, claims."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Role = Literal["ours", "opponent", "reference"]


@dataclass(frozen=True)
class Setting:
    """How a run is to be made.

    Attributes:
        device: Where tensors are.
        quick: The same work with few repeats, and fewer points in the curves.
        tiny: Sizes for tests of the suite itself; nothing is timed.
        only: Pattern of the workloads that are run; `""` for those of a usual run.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    quick: bool = False
    tiny: bool = False
    only: str = ""


@dataclass(frozen=True)
class Contestant:
    """One way of doing a workload's work.

    Attributes:
        name: Its name in the report.
        step: Does the work once, forward and backward, and returns what it made.
        results: From what `step` returned to tensors that must equal the other contestants';
            `None` for a reference that does other work (a shared layer) or returns none.
        role: `ours`; `opponent`, what the bound is against; `reference`, for the reader.
        note: What to say beside its numbers, e.g. how hyperloom ran each layer.
    """

    name: str
    step: Callable[[], Any]
    results: Callable[[Any], Mapping[str, Tensor]] | None
    role: Role = "opponent"
    note: Callable[[], str] | None = None


@dataclass(frozen=True)
class Workload:
    """The same work for several contestants.

    Attributes:
        key: Its name within the case.
        make: Builds the contestants; the first is what the others are compared with.
        seconds: Time to spend on repeats.
        memory: Whether to measure peak memory.
        tolerance: Largest difference allowed between results, relative to the largest number
            in a tensor.
        numbers: Sizes, for tables and plots.
        omitted: Contestants that do not run here, and why.
        elsewhere: Whether the work is done in processes of its own, so that only the time on
            the wall says anything.
    """

    key: str
    make: Callable[[], list[Contestant]]
    seconds: float = 3.0
    memory: bool = False
    tolerance: float = 1e-5
    numbers: Mapping[str, float] = field(default_factory=dict)
    omitted: Mapping[str, str] = field(default_factory=dict)
    elsewhere: bool = False


@dataclass(frozen=True)
class Measured:
    """What was measured of one contestant.

    Attributes:
        role: As in `Contestant`.
        seconds: Time of one step, once for each repeat.
        peak: Bytes of memory that one step needs beside what was there before it, or `None`.
        note: As the contestant's, as text.
    """

    role: Role
    seconds: tuple[float, ...]
    peak: int | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.seconds) == 1:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


Times = Mapping[str, Measured]
Results = Mapping[str, Times]


@dataclass(frozen=True)
class Claim:
    """A number beside the bound that it has to keep.

    Attributes:
        what: What is claimed.
        value: The number.
        least: Lower bound, inclusive.
        most: Upper bound, inclusive.
        unit: Unit, after the number.
    """

    what: str
    value: float
    least: float | None = None
    most: float | None = None
    unit: str = "×"

    @property
    def holds(self) -> bool:
        """Whether the number keeps the bounds; without one it always does."""
        low = self.least is None or self.value >= self.least
        return low and (self.most is None or self.value <= self.most)

    @property
    def bound(self) -> str:
        """The bound as text."""
        if self.least is not None:
            return f"≥ {self.least:g}{self.unit}"
        return "–" if self.most is None else f"≤ {self.most:g}{self.unit}"


@dataclass(frozen=True)
class Case:
    """A part of the suite.

    Attributes:
        name: What `--only` takes.
        title: Heading in the report.
        text: What is run, a paragraph each.
        workloads: From the setting to the workloads.
        judge: From what was measured to claims.
        table: From what was measured to a table of its own, columns first; `None` for the usual
            one.
        page: Name of the page that it is written into.
        tolerance: The largest of its workloads'.
    """

    name: str
    title: str
    text: Sequence[str]
    workloads: Callable[[Setting], list[Workload]]
    judge: Callable[[Results], list[Claim]]
    table: Callable[[Sequence[Workload], Results], list[list[str]]] | None = None
    page: str = "benchmarks"
    tolerance: float = 1e-5


def ours(times: Times) -> Measured:
    """Return what was measured of hyperloom."""
    return next(m for m in times.values() if m.role == "ours")


def best(times: Times) -> tuple[str, Measured]:
    """Return the fastest opponent."""
    opponents = {name: m for name, m in times.items() if m.role == "opponent"}
    name = min(opponents, key=lambda name: opponents[name].median)
    return name, opponents[name]


def faster(times: Times, least: float, what: str) -> Claim:
    """Claim that ours is `least` times faster than the fastest opponent."""
    name, opponent = best(times)
    return Claim(f"{what}: times faster than {name}", opponent.median / ours(times).median, least)


def within(times: Times, most: float, what: str, other: str | None = None) -> Claim:
    """Claim that ours takes at most `most` times as long as `other`, or the fastest opponent."""
    name, opponent = best(times) if other is None else (other, times[other])
    value = ours(times).median / opponent.median
    return Claim(f"{what}: time over {name}", value, most=most)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
