"""What `doctor()` returns: the readings of one run, what is wrong with them, and their table.

A backend takes the readings; what they mean is decided in `findings.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hyperloom._core.errors import one_of
from hyperloom._core.reports.findings import judge
from hyperloom._core.reports.readings import (
    CHECKS,
    Finding,
    LayerReading,
    Level,
    PartReading,
    Readings,
    TensorReading,
)
from hyperloom._core.tables import table

_MOST_ROWS = 40
_MOST_NAMES = 4


@dataclass(frozen=True, repr=False)
class Report:
    """What `doctor()` found. Printing it gives a table.

    Attributes:
        readings: What was measured.
        findings: What is wrong with it, the worst first.
    """

    readings: Readings
    findings: tuple[Finding, ...] = field(init=False)

    def __post_init__(self) -> None:
        order = list(Level)
        ordered = sorted(judge(self.readings), key=lambda f: order.index(f.level))
        object.__setattr__(self, "findings", tuple(ordered))

    @property
    def ok(self) -> bool:
        """Whether there are neither faults nor warnings."""
        return all(f.level is Level.NOTE for f in self.findings)

    def about(self, check: str) -> tuple[Finding, ...]:
        """Return the findings of one check, e.g. `"gradient"`."""
        one_of("check", check, CHECKS)
        return tuple(f for f in self.findings if f.check == check)

    def __repr__(self) -> str:
        return "\n".join(_draw(self))


def _draw(report: Report) -> list[str]:
    r = report.readings
    noun = "condition" if r.conditions == 1 else "conditions"
    counts = {level: sum(f.level is level for f in report.findings) for level in Level}
    told = ", ".join(f"{n} {level}{'s' if n > 1 else ''}" for level, n in counts.items() if n)
    lines = [f"doctor: {r.target}, {r.conditions} {noun}{f', {r.strategy}' if r.strategy else ''}"]
    lines += [told or "nothing found", *(_draw_finding(f) for f in report.findings)]
    if r.parts:
        rows = [[p.name, _shape(p.shape), p.dtype, _part_gradient(p)] for p in r.parts]
        lines += ["", *_cut(table(["part", "shape", "dtype", "gradient"], rows))]
    if r.tensors:
        titles = ["generated tensor", "rms", "native", "differs", "gradient"]
        rows = [_tensor_row(t) for t in r.tensors]
        if r.step is not None and not r.step.unmeasured:
            titles += [f"{r.step.optimizer} step", "plain"]
            steps = [(t.step, t.native_step) for t in r.tensors]
            rows = [[*row, *map(_percent, both)] for row, both in zip(rows, steps, strict=True)]
        lines += ["", *_cut(table(titles, rows))]
    if r.layers:
        titles = ["layer", "class", "outputs", "native", "gradient", "native"]
        rows = [_layer_row(x) for x in r.layers]
        lines += ["", *_cut(table(titles, rows))]
    if r.stages:
        told = ", ".join(f"{name} {_number(value)}" for name, value in r.stages)
        lines += ["", f"difference between conditions: {told}"]
    return lines


def _draw_finding(f: Finding) -> str:
    names = list(f.where[:_MOST_NAMES])
    more = len(f.where) - len(names)
    where = ", ".join(names) + (f" and {more} more" if more > 0 else "")
    return f"{f.level.upper():<8}{f.check:<10}{where + ': ' if where else ''}{f.text}"


def _part_gradient(p: PartReading) -> str:
    return p.idle or (_number(p.gradient) if p.trains else "frozen")


def _tensor_row(t: TensorReading) -> list[str]:
    return [t.name, *map(_number, (t.rms, t.native, t.varies, t.gradient))]


def _layer_row(x: LayerReading) -> list[str]:
    numbers = (x.activation, x.native_activation, x.gradient, x.native_gradient)
    return [x.name or "(the target)", x.kind, *map(_number, numbers)]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3g} %"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "scalar"


def _cut(lines: list[str]) -> list[str]:
    if len(lines) <= _MOST_ROWS + 2:
        return lines
    return [*lines[: _MOST_ROWS + 2], f"... and {len(lines) - _MOST_ROWS - 2} more"]
