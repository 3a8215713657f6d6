"""`python -m benchmarks [--quick] [--only CASE[:PATTERN]] [--out docs/reports]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import _plots, _report
from benchmarks._all import CASES
from benchmarks._case import Setting
from benchmarks._run import run_case

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main(arguments: list[str] | None = None) -> int:
    """Run benchmarks and write the report; return 1 if a bound does not hold in a full run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        type=_choice,
        action="append",
        metavar="CASE[:PATTERN]",
        help=f"run this one, of {', '.join(CASES)} (repeatable); with a pattern, of its work only "
        "what fits: 'adapters:llama-90m*training'",
    )
    parser.add_argument("--quick", action="store_true", help="few repeats, for ratios only")
    parser.add_argument(
        "--out",
        type=Path,
        help="where to write; default docs/reports, for a quick run build/benchmarks",
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of torch; default 2")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--remark", default="", help="a sentence for the report, on this run")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: time of this process "
        "on the processor, with --threads 1 on a machine that is busy",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    out = options.out or Path("build/benchmarks" if options.quick else "docs/reports")
    console = Console(highlight=False)
    cases = _report.read(out)
    chosen = options.only or [(name, "") for name in CASES]
    page = None
    for name, pattern in chosen:
        setting = Setting(torch.device(options.device), quick=options.quick, only=pattern)
        console.rule(CASES[name].title)
        clock, memory = CLOCKS[options.clock], not options.no_memory
        made = run_case(CASES[name], setting, console.print, clock=clock, memory=memory)
        made.update(machine=_report.machine(), clock=options.clock)
        made["remark"] = f"{options.remark} " if options.remark else ""
        cases[name] = made
        # Each case is kept as soon as it is done, whatever happens to the next one.
        page = _report.write(out, cases, CASES[name].page)
        if name == "curves":
            _plots.draw(out, made["results"])
        for claim in made["claims"]:
            mark = "[green]holds[/]" if claim["holds"] else "[red]does not hold[/]"
            console.print(f"{claim['what']}: {claim['value']:.3g} (bound {claim['bound']}) {mark}")
    console.print(f"Report: {page}")
    held = all(claim["holds"] for name, _ in chosen for claim in cases[name]["claims"])
    return 0 if held or options.quick else 1


def _choice(text: str) -> tuple[str, str]:
    """Return a case and the pattern of its work."""
    name, _, pattern = text.partition(":")
    if name not in CASES:
        raise argparse.ArgumentTypeError(f"{name!r} is no case; there are {', '.join(CASES)}")
    return name, pattern


if __name__ == "__main__":
    sys.exit(main())
