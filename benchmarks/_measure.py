"""Equality, time, and peak memory."""

from __future__ import annotations

import gc
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks._case import Contestant, Setting, Workload

LEAST_SAMPLE = 2e-3  # seconds: shorter steps are repeated within a sample
MOST_ROUNDS = 200
SLOW = 0.5  # seconds


class UnequalError(RuntimeError):
    """Contestants that should do the same work do not."""


def settle_allocator() -> None:
    """Bring glibc's allocator to where it is in any process that has run for a while.

    Blocks above a threshold are given back at once, and the next step pays for new pages. The
    threshold rises to the largest block freed so far, at most 32 MiB: until it has, the time of
    a step depends on what others freed before it.
    """
    torch.zeros(31 * 2**20, dtype=torch.uint8)  # made and freed


def check(workload: Workload, contestants: Sequence[Contestant]) -> dict[str, float]:
    """Run every contestant once and compare what they return with the first one's.

    Returns:
        For each contestant the largest difference, relative to the largest number of the tensor.

    Raises:
        UnequalError: Other names, shapes or numbers.
    """
    found: dict[str, float] = {}
    wanted: Mapping[str, Tensor] | None = None
    for contestant in contestants:
        if contestant.results is None:
            continue
        got = {k: v.detach() for k, v in contestant.results(contestant.step()).items()}
        if wanted is None:
            wanted = {key: value.clone() for key, value in got.items()}
        found[contestant.name] = _largest_difference(workload, contestant.name, wanted, got)
    return found


def _largest_difference(
    workload: Workload, name: str, wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]
) -> float:
    where = f"{workload.key}, {name}"
    if set(wanted) != set(got):
        raise UnequalError(
            f"{where}: returned {sorted(got)}, the first contestant {sorted(wanted)}"
        )
    largest = 0.0
    for key, value in wanted.items():
        if value.shape != got[key].shape:
            raise UnequalError(
                f"{where}: {key} is {tuple(got[key].shape)}, not {tuple(value.shape)}"
            )
        scale = float(value.abs().max())
        difference = float((value - got[key]).abs().max())
        if not math.isfinite(difference) or not scale:
            raise UnequalError(f"{where}: {key} is zero or not finite")
        if difference > workload.tolerance * scale:
            shown = f"{difference / scale:.2g} of its largest number"
            raise UnequalError(
                f"{where}: {key} differs by {shown}, tolerance {workload.tolerance:g}"
            )
        largest = max(largest, difference / scale)
    return largest


def in_turns(
    steps: Mapping[str, Callable[[], Any]],
    seconds: float,
    setting: Setting,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[float, ...]]:
    """Time steps in turns: what disturbs the machine disturbs all of them.

    Every round has an order of its own, because a step pays for what the one before it has left
    in the caches.

    Args:
        steps: What to time.
        seconds: About how long to go on; at least 5 rounds (3 in a quick run) are made.
        setting: Where the work is done, and whether the run is quick.
        clock: What to read the time from.

    Returns:
        Seconds of one step, once for each round; steps far slower than the fastest, which take
        most of the time and decide nothing, are in the first three rounds only.
    """

    def sample(step: Callable[[], Any], times: int) -> float:
        wait(setting.device)
        start = clock()
        for _ in range(times):
            step()
        wait(setting.device)
        return (clock() - start) / times

    gc.collect()
    settle_allocator()
    first = {name: min(sample(step, 1), sample(step, 1)) for name, step in steps.items()}
    for name, step in steps.items():
        if first[name] < LEAST_SAMPLE:  # two calls of a short step say little of the others
            first[name] = sample(step, math.ceil(LEAST_SAMPLE / first[name]))
    times = {name: max(1, math.ceil(LEAST_SAMPLE / t)) for name, t in first.items()}
    slow = {name for name, t in first.items() if t > max(SLOW, 3 * min(first.values()))}
    one_round = sum(first[name] * times[name] for name in steps if name not in slow)
    least = 3 if setting.quick else 5
    wanted = int((seconds / 8 if setting.quick else seconds) / one_round)
    found: dict[str, list[float]] = {name: [] for name in steps}
    order, shuffle = list(steps), random.Random(0).shuffle
    for i in range(min(MOST_ROUNDS, max(least, wanted))):
        shuffle(order)
        for name in order:
            if i < 3 or name not in slow:
                found[name].append(sample(steps[name], times[name]))
    return {name: tuple(values) for name, values in found.items()}


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_of(step: Callable[[], Any], device: torch.device) -> int:
    """Return the bytes that a step needs at its peak, beside what is there before it.

    A first step makes what stays (thread pools, work areas). On a GPU torch's allocator is asked;
    on the CPU the resident set of this process, so nothing else may run in it.
    """
    step()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    before = _reset_peak()
    step()
    return _peak() - before


def _reset_peak() -> int:
    """Give freed memory back, start a new high-water mark, and return it in bytes."""
    import ctypes

    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # "reset the peak resident set size", man 5 proc
    return _peak()


def _peak() -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def peak_in_own_process(case: str, key: str, contestant: str, setting: Setting) -> int:
    """Measure the peak memory of one contestant in a process that runs nothing else."""
    command = [sys.executable, "-m", "benchmarks._peak", case, key, contestant]
    command += [setting.device.type, str(torch.get_num_threads())]
    # Every block of its own pages, so that what is freed is gone and not kept for later.
    fixed = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    made = subprocess.run(command, env={**os.environ, **fixed}, capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"{case}, {key}, {contestant}: {made.stderr.strip()}")
    return json.loads(made.stdout.splitlines()[-1])
