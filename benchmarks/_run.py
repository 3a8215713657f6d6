"""Running a case: check, time, measure memory."""

from __future__ import annotations

import datetime
import gc
import time
import warnings
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

from benchmarks._case import Case, Measured, Results, Role, Setting, Workload
from benchmarks._measure import check, in_turns, peak_in_own_process

Say = Callable[[str], None]


def run_case(case: Case, setting: Setting, say: Say, *, clock: Any, memory: bool) -> dict[str, Any]:
    """Run all workloads of a case; return what the report needs, ready for JSON."""
    start = time.perf_counter()
    results: dict[str, dict[str, Measured]] = {}
    differences: dict[str, dict[str, float]] = {}
    workloads = [w for w in case.workloads(setting) if fnmatch(w.key, setting.only or "*")]
    for workload in workloads:
        results[workload.key], differences[workload.key] = run_workload(
            case.name, workload, setting, clock=clock, memory=memory
        )
        say(_line(workload, results[workload.key]))
    return {
        "claims": [_claim(claim) for claim in case.judge(results)],
        "table": case.table(workloads, results) if case.table else _table(workloads, results),
        "results": {
            key: {
                name: {
                    "role": m.role,
                    "median": m.median,
                    "quartiles": list(m.quartiles),
                    "fastest": min(m.seconds),
                    "repeats": len(m.seconds),
                    "peak_bytes": m.peak,
                    "note": m.note,
                    "largest_difference": differences[key].get(name),
                }
                for name, m in times.items()
            }
            for key, times in results.items()
        },
        "omitted": {w.key: dict(w.omitted) for w in workloads if w.omitted},
        "seconds": round(time.perf_counter() - start, 1),
        "date": datetime.date.today().isoformat(),
        "quick": setting.quick,
    }


def run_workload(
    case: str, workload: Workload, setting: Setting, *, clock: Any, memory: bool
) -> tuple[dict[str, Measured], dict[str, float]]:
    """Return what was measured of each contestant, and how far its results are off."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peers; ours raises in the tests
        contestants = workload.make()
        differences = check(workload, contestants)
        notes = {c.name: c.note() if c.note else "" for c in contestants}
        steps = {c.name: c.step for c in contestants}
        own = time.perf_counter if workload.elsewhere else clock
        times = in_turns(steps, workload.seconds, setting, own)
    roles: dict[str, Role] = {c.name: c.role for c in contestants}
    del contestants, steps
    peaks: dict[str, int | None] = dict.fromkeys(times)
    if workload.memory and memory:
        for name in times:
            peaks[name] = peak_in_own_process(case, workload.key, name, setting)
    measured = {n: Measured(roles[n], times[n], peaks[n], notes[n]) for n in times}
    return measured, differences


def _line(workload: Workload, times: dict[str, Measured]) -> str:
    shown = [f"{name} {1e3 * m.median:.4g} ms" for name, m in times.items()]
    return f"{workload.key}: {', '.join(shown)}"


def _claim(claim: Any) -> dict[str, Any]:
    return {
        "what": claim.what,
        "value": claim.value,
        "unit": claim.unit,
        "bound": claim.bound,
        "holds": claim.holds,
    }


def _table(workloads: list[Workload], results: Results) -> list[list[str]]:
    """Return a line for each contestant of each workload."""
    memory = any(m.peak is not None for times in results.values() for m in times.values())
    lines = [["work", "contestant", "ms", "quartiles", "to hyperloom"]]
    lines[0] += ["peak MB"] if memory else []
    for workload in workloads:
        times = results[workload.key]
        base = next(m for m in times.values() if m.role == "ours").median
        for name, m in times.items():
            low, high = m.quartiles
            line = [workload.key, name, f"{1e3 * m.median:.4g}"]
            line += [f"{1e3 * low:.4g} – {1e3 * high:.4g}", f"{m.median / base:.2f}"]
            line += [f"{m.peak / 1e6:.4g}" if m.peak is not None else "–"] if memory else []
            lines.append(line)
    return lines
