"""How far a call travels: `make trace` prints functions, files and changes of file of a call.

A file that has to be opened to follow a call costs its reader time, and a function that is called
costs the call time. Both are counted with a profile hook, in a call of a kind that has been seen
before: what is decided once does not count. Counts are the same on every machine.

    python -m benchmarks.trace                 # a line for each kind of call
    python -m benchmarks.trace "own forward"   # the way of one kind, function by function
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

import hyperloom
import hyperloom.torch as hl

PACKAGE = str(Path(hyperloom.__file__).parent)


@dataclass(frozen=True)
class Way:
    """The way of a call.

    Attributes:
        steps: File and function of each call of a function of the package, in order.
        python: Calls of functions written in Python, whoever's they are.
    """

    steps: tuple[tuple[str, str], ...]
    python: int

    @property
    def functions(self) -> int:
        """Calls of functions of the package."""
        return len(self.steps)

    @property
    def files(self) -> int:
        """Files in which they stand."""
        return len({file for file, _ in self.steps})

    @property
    def changes(self) -> int:
        """How often the next one stands in another file."""
        return max(0, sum(1 for _ in groupby(file for file, _ in self.steps)) - 1)


def way_of(call: Callable[[], object], warm: int = 3) -> Way:
    """Return the way of a call, after some calls of the same kind."""
    for _ in range(warm):
        call()
    steps: list[tuple[str, str]] = []
    python = 0

    def hook(frame: FrameType, event: str, _: Any) -> None:
        nonlocal python
        if event != "call":
            return
        python += 1
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            file = code.co_filename.removeprefix(PACKAGE).lstrip("/\\")
            steps.append((file, code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(hook)
    try:
        call()
    finally:
        sys.setprofile(before)
    return Way(tuple(steps), python - 1)  # without `call` itself


class Own(nn.Module):
    """A target with a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def chain() -> nn.Module:
    """Return a target that is a chain of simple layers."""
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def _of(hnet: hl.HyperNetwork, x: Tensor, condition: Any) -> Callable[[], object]:
    return lambda: hnet(x, condition=condition)


def calls() -> dict[str, Callable[[], object]]:
    """Return the kinds of calls: B = 4 conditions with 5 rows each, or one condition."""
    x, c, ids = torch.randn(4, 5, 8), torch.randn(4, 6), torch.arange(4)
    vector, embedding = hl.Vector(6), hl.Embedding(5, 6)
    norm = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    chunks, one_row = hl.Chunked(40), (torch.randn(64, 1, 64), torch.randn(64, 4))
    wide = nn.Sequential(nn.Linear(64, 64), nn.Unflatten(-1, (8, 8)))
    return {
        "chain": _of(hl.HyperNetwork(chain(), condition=vector), x, c),
        "chain, chunks": _of(hl.HyperNetwork(chain(), condition=vector, layout=chunks), x, c),
        "chain, ids": _of(hl.HyperNetwork(chain(), condition=embedding), x, ids),
        "own forward": _of(hl.HyperNetwork(Own(), condition=vector), x, c),
        "own forward, ids": _of(hl.HyperNetwork(Own(), condition=embedding), x, ids),
        "own forward, trunk": _of(hl.HyperNetwork(Own(), condition=vector, trunk=hl.MLP(12)), x, c),
        "own forward, chunks": _of(hl.HyperNetwork(Own(), condition=vector, layout=chunks), x, c),
        "own forward, weights in parts": _of(
            hl.HyperNetwork(wide, condition=hl.Vector(4)), *one_row
        ),
        "convolution": _of(hl.HyperNetwork(conv, condition=vector), torch.randn(4, 5, 3, 8, 8), c),
        "batch norm": _of(hl.HyperNetwork(norm, condition=vector), x, c),
        "one condition, chain": _of(hl.HyperNetwork(chain(), condition=vector), x[0], c[0]),
        "one condition, own forward": _of(hl.HyperNetwork(Own(), condition=vector), x[0], c[0]),
    }


def main() -> None:
    """Print the counts of all kinds of calls, or the way of those that are named."""
    torch.manual_seed(0)
    known, asked = calls(), sys.argv[1:]
    print(f"{'call':30} {'functions':>9} {'files':>6} {'changes':>8} {'all of Python':>14}")
    for name in asked or known:
        way = way_of(known[name])
        print(f"{name:30} {way.functions:9} {way.files:6} {way.changes:8} {way.python:14}")
        for file, function in way.steps if asked else ():
            print(f"    {file:32} {function}")


if __name__ == "__main__":
    main()
