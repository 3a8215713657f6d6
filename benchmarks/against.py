"""The time of calls against another version of this library, in turns.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.against /tmp/before/src

Two processes, one for each version, time the same kinds of calls (those of `benchmarks.trace`) one
after the other, many times, so that whatever else the machine does meets both alike; the clock is
that of the process. Prints the least time of a call in each version, and the median over the rounds
of new / old.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
SHORTEST = 0.02  # seconds that one measurement takes at least


def serve() -> None:
    """Answer names of kinds of calls with the seconds that one takes, until there are no more."""
    import torch

    from benchmarks.trace import calls

    torch.manual_seed(0)
    torch.set_num_threads(1)
    known = calls()
    print(json.dumps(list(known)), flush=True)
    for line in sys.stdin:
        print(_seconds(known[json.loads(line)]), flush=True)


def _seconds(call: Callable[[], object]) -> float:
    for _ in range(3):
        call()
    num, spent = 0, 0.0
    start = time.process_time()
    while spent < SHORTEST:
        call()
        num, spent = num + 1, time.process_time() - start
    return spent / num


class Version:
    """A process that runs one version.

    Args:
        source: The folder that holds the package.
    """

    def __init__(self, source: Path) -> None:
        paths = os.pathsep.join([str(source), str(HERE)])
        self.process: Any = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.against", "--serve"],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.kinds: list[str] = json.loads(self.process.stdout.readline())

    def seconds(self, kind: str) -> float:
        """Return the time of a call."""
        self.process.stdin.write(json.dumps(kind) + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def compare(old: Path, new: Path, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Return for each kind of call the least seconds old and new, and the median of new / old."""
    versions = Version(old), Version(new)
    found: dict[str, tuple[float, float, float]] = {}
    try:
        for kind in versions[0].kinds:
            pairs = [tuple(version.seconds(kind) for version in versions) for _ in range(rounds)]
            before, after = (min(times) for times in zip(*pairs, strict=True))
            found[kind] = before, after, statistics.median(b / a for a, b in pairs)
    finally:
        for version in versions:
            version.close()
    return found


def main() -> None:
    """Compare, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, nargs="?", help="the folder that holds the old package")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    if options.old is None:
        parser.error("old: got nothing; wanted the folder that holds the old package")
    print("| call | before, µs | now, µs | now / before |\n|---|---|---|---|")
    for kind, (a, b, ratio) in compare(options.old, HERE / "src", options.rounds).items():
        print(f"| {kind} | {1e6 * a:.0f} | {1e6 * b:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
