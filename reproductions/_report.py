"""Results as JSON, and as Markdown made from that JSON."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

NAME = "reproductions"
INTRODUCTION = """# Reproductions

Written by `make reproduce` (`python -m reproductions`); all numbers are in
[{name}.json]({name}.json) beside this page. Every run is seeded: the same versions on the same
kind of machine give the same numbers. "Ours" is one number, or the lowest and the highest of
several that all have to keep the bound.
"""


def machine() -> dict[str, str]:
    """Describe the machine and the versions a run was made with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = {name: _version(name) for name in ("torch", "numpy", "hyperloom")}
    return {
        "processor": _processor(),
        "cores": f"{cores} (one thread a run)",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        **packages,
    }


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
        return "not installed"


def read(folder: Path) -> dict[str, Any]:
    """Return the results already in `folder`, by name."""
    path = folder / f"{NAME}.json"
    return json.loads(path.read_text())["results"] if path.exists() else {}


def write(folder: Path, results: dict[str, Any]) -> Path:
    """Write JSON and Markdown into `folder`; return the path of the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"results": results}, indent=1, ensure_ascii=False)
    (folder / f"{NAME}.json").write_text(text + "\n")
    page = folder / f"{NAME}.md"
    page.write_text(markdown(results))
    return page


def markdown(results: dict[str, Any]) -> str:
    """Return the report."""
    parts = [INTRODUCTION.format(name=NAME), _overview(results)]
    for made in results.values():
        parts += [f"## {made['title']}\n", f"{made['source']}.\n"]
        parts += ["\n".join(f"- {line}" for line in made["setup"]) + "\n"]
        parts += [_claims(made["claims"])]
        for one in made["tables"]:
            parts += [f"{one['title']}\n", _table(one["columns"], one["rows"])]
        described = ", ".join(f"{key} {value}" for key, value in made["machine"].items())
        parts += [f"Run on {made['date']} in {made['seconds']:.0f} s: {described}.\n"]
    return "\n".join(parts)


def _overview(results: dict[str, Any]) -> str:
    rows = []
    for made in results.values():
        kept = sum(one["holds"] for one in made["claims"])
        rows.append([made["title"], f"{kept} of {len(made['claims'])}", made["date"]])
    return _table(["run", "bounds that hold", "date"], rows)


def _claims(claims: list[dict[str, Any]]) -> str:
    rows = []
    for one in claims:
        held = "yes" if one["holds"] else "**no**"
        rows.append([one["what"], one["published"], shown(one), bound(one), held])
    return _table(["claim", "published", "ours", "bound", "holds"], rows)


def shown(one: dict[str, Any]) -> str:
    """Return a claim's numbers as text."""
    return " – ".join(f"{value:.{one['digits']}f}" for value in one["ours"])


def bound(one: dict[str, Any]) -> str:
    """Return a claim's bound as text."""
    least, most = one["least"], one["most"]
    low, high = (
        one if one is None else f"{one:.3g}" if abs(one) < 1000 else f"{one:.0f}"
        for one in (least, most)
    )
    if least is not None and most is not None:
        return f"{low} – {high}"
    return f"≥ {low}" if least is not None else f"≤ {high}"


def _table(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "\\|")
