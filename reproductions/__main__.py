"""`python -m reproductions --data mnist10k.npz [--only NAME] [--out docs/reports]`."""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reproductions import (
    _report,
    init_depth,
    init_scale,
    permuted_mnist,
    split_mnist,
    static_cnn,
    toy_regression,
    trans_inr,
    widths,
)
from reproductions._result import Kept, Step, Track

ALL: dict[str, ModuleType] = {
    "toy_regression": toy_regression,
    "split_mnist": split_mnist,
    "permuted_mnist": permuted_mnist,
    "static_cnn": static_cnn,
    "init_depth": init_depth,
    "init_scale": init_scale,
    "widths": widths,
    "trans_inr": trans_inr,
}

NEED_DIGITS = {"split_mnist", "permuted_mnist", "static_cnn", "trans_inr"}
KEEP_PARTS = {"static_cnn"}  # these take `kept=`


def main(arguments: list[str] | None = None) -> int:
    """Run reproductions and write the report; return 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(prog="python -m reproductions", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help=".npz with X (10000, 784), grey values in 0..1, and Y (10000,)"
    )
    parser.add_argument("--only", choices=ALL, action="append", help="run this one (repeatable)")
    parser.add_argument("--out", type=Path, default=Path("docs/reports"), help="where to write")
    options = parser.parse_args(arguments)
    names = options.only or list(ALL)
    if NEED_DIGITS & set(names) and (options.data is None or not options.data.is_file()):
        got = "nothing" if options.data is None else f"{options.data}, which is not a file"
        wanted = "the path of an .npz file with X (10000, 784) and Y (10000,)"
        parser.error(f"--data: got {got}; wanted {wanted}. Without it: --only another one.")
    torch.set_num_threads(1)  # networks this small are slower with more
    console = Console()
    results = _report.read(options.out)
    for name in names:
        kept = Kept(options.out / f"{name}.unfinished.json") if name in KEEP_PARTS else None
        results[name] = run_one(ALL[name], options.data, console, kept)
        # Long runs: what is done is kept, whatever happens to the next one.
        ordered = {key: results[key] for key in ALL if key in results}
        _report.write(options.out, ordered)
        if kept is not None:
            kept.finish()
        show(results[name], console)
    console.print(f"Report: {options.out / _report.NAME}.md")
    return 0 if all(one["holds"] for name in names for one in results[name]["claims"]) else 1


def run_one(
    module: ModuleType, data: Path | None, console: Console, kept: Kept | None = None
) -> dict[str, Any]:
    """Run a reproduction with a progress bar; add when, where and how long."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    start = time.perf_counter()
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        options = {} if kept is None else {"kept": kept}
        made = module.run(data, tracker(bars), **options)
    made["seconds"] = round(time.perf_counter() - start, 1)
    made["date"] = datetime.date.today().isoformat()
    made["machine"] = _report.machine()
    return made


def tracker(bars: Progress) -> Track:
    """Return a `Track` that draws on `bars`."""

    def track(description: str, total: int) -> Step:
        bar = bars.add_task(description, total=total)
        return lambda: bars.advance(bar)

    return track


def show(made: dict[str, Any], console: Console) -> None:
    """Print what was claimed and what came out."""
    console.rule(escape(made["title"]))
    for one in made["claims"]:
        mark = "[green]holds[/]" if one["holds"] else "[red]does not hold[/]"
        text = f"{one['what']}: {_report.shown(one)} (bound {_report.bound(one)}) "
        console.print(text, end="", markup=False, highlight=False)
        console.print(mark)


if __name__ == "__main__":
    sys.exit(main())
