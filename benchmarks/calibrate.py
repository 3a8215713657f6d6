"""Constants of the cost model for the device at hand: `python -m benchmarks.calibrate`.

Times single layers in every way there is (dense, coefficients into the inputs, into the outputs;
forward and backward), over conditions, rows, templates and sizes, and fits the constants of
`hyperloom._core.plan.cost.DEVICES` so that the model's choice costs as little as possible
against the fastest way. Prints the constants, ready to paste, and how good the choices are with
them and with the present ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks import _mlp
from benchmarks.__main__ import CLOCKS
from benchmarks._case import Setting
from benchmarks._measure import in_turns, wait
from hyperloom._core.plan import cost
from hyperloom.torch._run import chain

WAYS = ("dense", "inputs", "outputs")
CONDITIONS, ROWS, TERMS = (1, 16, 256), (1, 4, 16, 64, 256), (4, 16, 64)
SIZES = ((64, 64), (256, 256), (256, 32), (32, 256))  # inputs, outputs
LARGEST = 2**27  # bytes of the arrays that a way may make
FLOATS = [f.name for f in dataclasses.fields(cost.Device) if f.name != "name"]
# A choice that loses 1 % counts as much as an estimate that is off by a factor of e^0.7.
HONESTY = 0.02


@dataclasses.dataclass(frozen=True)
class Cell:
    """One layer, and how long each way of evaluating it took.

    Attributes:
        conditions: Conditions B.
        rows: Rows n of each.
        terms: Templates R.
        inputs: Inputs of the layer.
        outputs: Outputs of the layer.
        input_gradient: Whether its input takes a gradient.
        seconds: Median of each way; ways that would need too much memory are left out.
    """

    conditions: int
    rows: int
    terms: int
    inputs: int
    outputs: int
    input_gradient: bool
    seconds: dict[str, float]

    @property
    def key(self) -> tuple[int, ...]:
        """What tells it from others."""
        sizes = (self.conditions, self.rows, self.terms, self.inputs, self.outputs)
        return (*sizes, self.input_gradient)

    @property
    def layer(self) -> cost.Layer:
        """The sizes, as the cost model sees them."""
        return cost.Layer(
            conditions=self.conditions,
            rows=self.rows,
            terms=self.terms,
            fan_in=self.inputs,
            fan_out=self.outputs,
            inputs=self.inputs,
            backward=True,
            input_gradient=self.input_gradient,
        )

    @property
    def best(self) -> str:
        return min(self.seconds, key=lambda way: self.seconds[way])

    def regret(self, way: str) -> float:
        """Time of a way over that of the fastest, less 1; 3 for a way that was left out."""
        return self.seconds.get(way, 4 * self.seconds[self.best]) / self.seconds[self.best] - 1


def cells(quick: bool) -> list[Cell]:
    """Return the layers to time."""
    sizes = product(CONDITIONS, ROWS, TERMS, SIZES, (True, False))
    made = [Cell(b, n, r, i, o, x, {}) for b, n, r, (i, o), x in sizes if x or i == o]
    return made[::9] if quick else made


def time_cell(cell: Cell, setting: Setting, clock: Callable[[], float]) -> Cell:
    """Time every way of a layer that fits in memory."""
    problem = _mlp.Problem(
        (cell.inputs, cell.outputs),
        cell.terms,
        cell.conditions,
        cell.rows,
        input_gradient=cell.input_gradient,
        device=setting.device,
    )
    steps = {way: forced(problem, way) for way in WAYS if array_bytes(cell, way) <= LARGEST}
    seconds = 0.3 if setting.quick else 0.6
    found = in_turns(steps, seconds, setting, clock)
    return dataclasses.replace(cell, seconds={w: statistics.median(t) for w, t in found.items()})


def array_bytes(cell: Cell, way: str) -> int:
    """Bytes of the largest array that a way makes."""
    if way == "dense":
        return 4 * cell.conditions * cell.inputs * cell.outputs
    side = cell.inputs if way == "inputs" else cell.outputs
    return 4 * cell.conditions * cell.rows * cell.terms * side


def forced(problem: _mlp.Problem, way: str) -> Callable[[], Any]:
    """Return a step in which the cost model is not asked: every layer goes one way."""
    step, routes = _mlp.hyperloom(problem).step, {}

    def run() -> Any:
        choose, own = chain.choose, problem.hnet._runner.memory.routes
        chain.choose = lambda *_: way
        problem.hnet._runner.memory.routes = routes
        try:
            return step()
        finally:
            chain.choose = choose
            problem.hnet._runner.memory.routes = own

    return run


def raw_rates(setting: Setting) -> dict[str, float]:
    """Measure each rate by itself: where the fit starts from."""
    device = setting.device
    a = torch.randn(1024, 1024, device=device)
    left, right = torch.randn(64, 64, 256, device=device), torch.randn(64, 256, 256, device=device)
    long, short = torch.randn(2**24, device=device), torch.randn(8, device=device)

    def rate(work: float, step: Callable[[], Any]) -> float:
        step()
        took = []
        for _ in range(10):
            wait(device)
            start = time.perf_counter()
            step()
            wait(device)
            took.append(time.perf_counter() - start)
        return work / statistics.median(took)

    return {
        "gemm": rate(2 * 1024**3, lambda: a @ a),
        "bmm": rate(2 * 64 * 64 * 256 * 256, lambda: torch.bmm(left, right)),
        "bandwidth": rate(8 * 2**24, lambda: long + 1),
        "call": 1 / rate(100, lambda: [short + 1 for _ in range(100)]),
    }


class Score:
    """How good the model's choices are with some constants."""

    def __init__(self, found: Sequence[Cell], constants: dict[str, float]) -> None:
        cost.DEVICES["candidate"] = cost.Device(name="candidate", **constants)
        try:
            self.choices = [cost.choose(cell.layer, 4, "candidate") for cell in found]
            estimates = [cost.estimates(cell.layer, 4, "candidate") for cell in found]
        finally:
            del cost.DEVICES["candidate"]
        self.regrets = [c.regret(way) for c, way in zip(found, self.choices, strict=True)]
        pairs = zip(found, estimates, strict=True)
        self.errors = [
            math.log(e.seconds / cell.seconds[e.choice])
            for cell, each in pairs
            for e in each
            if e.choice in cell.seconds
        ]
        self.right = sum(c.best == way for c, way in zip(found, self.choices, strict=True))

    @property
    def loss(self) -> float:
        """What the fit makes small: log of the time lost, and a little of the estimates' error."""
        lost = statistics.fmean(math.log1p(regret) for regret in self.regrets)
        return lost + HONESTY * statistics.fmean(error**2 for error in self.errors)

    def __str__(self) -> str:
        num, mean = len(self.regrets), statistics.fmean(self.regrets)
        near = sum(regret <= 0.05 for regret in self.regrets)
        error = math.exp(statistics.median(map(abs, self.errors)))
        return (
            f"fastest way in {self.right} of {num} layers, within 5 % of it in {near}; mean regret "
            f"{mean:.1%}, worst {max(self.regrets):.0%}; estimates off by a factor of {error:.2g} "
            "(median)"
        )


def fit(found: Sequence[Cell], starts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Fit the constants: from each start, steps along one constant at a time while they help."""
    ends = []
    for start in starts:
        best, loss = dict(start), Score(found, start).loss
        for factor in (4.0, 2.0, 1.4, 1.2, 1.1, 1.05):
            improved = True
            while improved:
                improved = False
                for name, step in product(FLOATS, (factor, 1 / factor)):
                    tried = {**best, name: best[name] * step}
                    now = Score(found, tried).loss
                    if now < loss - 1e-9:
                        best, loss, improved = tried, now, True
        ends.append((loss, best))
    return min(ends, key=lambda end: end[0])[1]


def worst(found: Sequence[Cell], score: Score, num: int = 8) -> list[str]:
    """Return the layers where the choice costs most, as text."""
    order = sorted(zip(score.regrets, found, score.choices, strict=True), key=lambda t: -t[0])
    return [
        f"B {c.conditions}, n {c.rows}, R {c.terms}, {c.inputs} to {c.outputs}"
        f"{'' if c.input_gradient else ', input without gradient'}: {way} costs {regret:.0%} more "
        f"than {c.best} ({', '.join(f'{w} {1e3 * t:.3g} ms' for w, t in c.seconds.items())})"
        for regret, c, way in order[:num]
        if regret > 0.05
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrate", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch; default 2")
    parser.add_argument("--quick", action="store_true", help="a ninth of the layers")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="as in benchmarks")
    parser.add_argument(
        "--timings",
        type=Path,
        help="JSON of the timings: read if it is there (nothing is timed again), else written",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    setting = Setting(torch.device(options.device), quick=options.quick)
    rates, found = measure(options, setting, console)
    report(found, rates, options.device, console.print)
    return 0


def measure(
    options: argparse.Namespace, setting: Setting, console: Console
) -> tuple[dict[str, float], list[Cell]]:
    """Return the raw rates and all layers, timed; what `--timings` holds is not timed again."""
    path, clock = options.timings, CLOCKS[options.clock]
    stored = json.loads(path.read_text()) if path and path.exists() else {}
    rates = stored.get("rates") or raw_rates(setting)
    done = [Cell(**cell) for cell in stored.get("cells", [])]
    known = {cell.key for cell in done}
    todo = [cell for cell in cells(options.quick) if cell.key not in known]
    for cell in track(todo, "timing layers", console=console, disable=not todo):
        done.append(time_cell(cell, setting, clock))
        if path:
            stored = {"rates": rates, "cells": [dataclasses.asdict(cell) for cell in done]}
            path.write_text(json.dumps(stored, indent=1) + "\n")
    return rates, done


def report(
    found: Sequence[Cell], rates: dict[str, float], device: str, say: Callable[[str], None]
) -> None:
    """Fit, and say what came of it."""
    present = {name: getattr(cost.DEVICES[device], name) for name in FLOATS}
    # A constant that is not measured by itself starts from what it is now.
    fitted = fit(found, [present, {**present, **{n: v for n, v in rates.items() if n in present}}])
    rounded = {name: float(f"{value:.2g}") for name, value in fitted.items()}
    say(f"measured by themselves: {_shown(rates)}")
    for way in WAYS:
        mean = statistics.fmean(cell.regret(way) for cell in found)
        fastest = sum(cell.best == way for cell in found)
        say(
            f"always {way}: the fastest in {fastest} of {len(found)} layers, mean regret {mean:.1%}"
        )
    for title, constants in (("present constants", present), ("fitted constants", rounded)):
        score = Score(found, constants)
        say(f"{title}: {score}")
        for line in worst(found, score):
            say(f"    {line}")
    say(f'    "{device}": Device("{device}", {_shown(rounded)}),')


def _shown(constants: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:.2g}" for name, value in constants.items())


if __name__ == "__main__":
    sys.exit(main())
