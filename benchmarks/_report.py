"""Results as JSON, and as Markdown made from that JSON."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks._all import CASES
from benchmarks._plots import PLOTS

NAME = "benchmarks"
LIBRARIES = {"MKL": r"Math Kernel Library Version ([\d.]+)", "oneDNN": r"MKL-DNN v([\d.]+)"}
PACKAGES = (
    "hyperloom",
    "hypnettorch",
    "hyper-nn",
    "peft",
    "transformers",
    "jax",
    "flax",
    "numpy",
    "matplotlib",
)
INTRODUCTION = """# {title}

Written by `make bench` (`python -m benchmarks`); all numbers are in [{name}.json]({name}.json)
beside this page.

- Contestants do the same work on the same numbers: float32, outputs and all gradients are
  compared before anything is timed, and differ by at most {tolerance} of a tensor's largest
  number. A step is the forward and the backward pass unless it says otherwise.
- Times are medians of repeats in turns, in one process, every round in an order of its own,
  after the C library's allocator has settled (freed blocks up to 32 MiB are used again). “To
  hyperloom” is a contestant's time over hyperloom's: above 1, hyperloom is faster.
- Peak memory is what one step needs beside what was there before it, measured for each contestant
  in a process of its own after one step to warm up: the high-water mark of the resident set
  (`VmHWM`, reset before the step), with every large block on pages of its own; on a GPU, torch's
  allocator.
"""


def machine() -> dict[str, str]:
    """Describe the machine and the versions a run was made with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {
        "processor": _processor(),
        "cores": f"{cores} ({torch.get_num_threads()} threads used)",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(name) for name in PACKAGES},
    }
    for name, pattern in LIBRARIES.items():
        if said := re.search(pattern, torch.__config__.show()):
            found[name] = said[1]
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed, left out"


def read(folder: Path) -> dict[str, Any]:
    """Return the results already in `folder`, by case."""
    found: dict[str, Any] = {}
    for page in _pages(CASES):
        path = folder / f"{page}.json"
        found.update(json.loads(path.read_text())["cases"] if path.exists() else {})
    return found


def _pages(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(CASES[name].page for name in names))


def write(folder: Path, cases: dict[str, Any], page: str = NAME) -> Path:
    """Write JSON and Markdown of a page's cases into `folder`; return the path of the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = {name: cases[name] for name in CASES if name in cases and CASES[name].page == page}
    text = json.dumps({"cases": ordered}, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / f"{page}.json").write_text(text + "\n")
    path = folder / f"{page}.md"
    path.write_text(markdown(ordered, page))
    return path


def markdown(cases: dict[str, Any], page: str = NAME) -> str:
    """Return the report."""
    claims = [claim for made in cases.values() for claim in made["claims"]]
    rows = [["what", "measured", "must be", "holds"], *map(_claim_row, claims)]
    title = next((case.title for case in CASES.values() if case.page == page != NAME), "Benchmarks")
    tolerance = f"{max((CASES[name].tolerance for name in cases), default=1e-5):.0e}"
    tolerance = tolerance.replace("e-0", "e-")
    parts = [INTRODUCTION.format(title=title, name=page, tolerance=tolerance)]
    parts += ["## All bounds\n", _table(rows)]
    for name, made in cases.items():
        parts += [f"## {CASES[name].title}\n"] if page == NAME else ["## What was measured\n"]
        parts += [f"{text}\n" for text in CASES[name].text]
        if name == "curves":
            parts += [f"![{axis}]({NAME}-{axis}.png)\n" for axis in PLOTS]
        parts += [_table(made["table"])]
        quick = "A quick run, for ratios only. " if made["quick"] else ""
        quick += "Time of the process on the processor. " if made["clock"] == "cpu" else ""
        quick += made.get("remark", "")
        described = ", ".join(f"{key} {value}" for key, value in made["machine"].items())
        parts += [f"{quick}Run on {made['date']} in {made['seconds']:.0f} s: {described}.\n"]
    return "\n".join(parts)


def _claim_row(claim: dict[str, Any]) -> list[str]:
    value = f"{claim['value']:.3g}{claim['unit']}"
    return [claim["what"], value, claim["bound"], "yes" if claim["holds"] else "**no**"]


def _table(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
