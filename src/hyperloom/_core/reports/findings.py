"""What the readings of `doctor()` mean: decided here, once, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from hyperloom._core.reports.readings import Finding, Level, Readings

# How far a scale may be from the native one before it is named. A trained network moves away from
# its start, so the bounds are wide: what is meant is what grows or dies from layer to layer.
WARN_RATIO = 10.0
FAULT_RATIO = 100.0
# How far one step may move a generated weight, relative to its spread. A plain network's moves by
# 1 to 2 % with Adam at 0.001; after a step of its whole spread, nothing is left of what it was.
WARN_STEP = 0.2
FAULT_STEP = 1.0
# Conditions whose vectors differ by less have most of their numbers in common.
WEAK_VECTORS = 0.05


def judge(r: Readings) -> Iterator[Finding]:
    """Return what is wrong with the readings, check by check."""
    for error in r.errors:
        yield Finding(Level.FAULT, "call", (), error)
    resting = _at_rest(r)
    yield from _agreement(r)
    yield from _values(r)
    yield from _dtypes(r)
    yield from _part_gradients(r, resting)
    yield from _tensor_gradients(r)
    yield from _dependence(r, resting)
    yield from _changes(r)
    yield from _norms(r)
    yield from _layers(r)
    yield from _steps(r)
    yield from _rest(r)


def _at_rest(r: Readings) -> bool:
    """Whether the generator is where changes start: no tensor differs, and none has to yet."""
    known = [t for t in r.tensors if t.varies is not None and not t.shared]
    return bool(known) and all(t.starts_constant and _same(t.varies, r) for t in known)


def _same(value: float | None, r: Readings) -> bool:
    return value is not None and value <= r.tolerance


def _some(level: Level, check: str, names: Iterable[str], text: str) -> Iterator[Finding]:
    """Yield one finding for all of `names`, none without any."""
    where = tuple(names)
    if where:
        yield Finding(level, check, where, text)


def _agreement(r: Readings) -> Iterator[Finding]:
    for d in r.disagreements:
        share = f"by {d.by:.2g} of their size" if math.isfinite(d.by) else "in shape or in NaNs"
        text = f"the {d.what} differ from those of {d.than}, {share}: that is more than rounding."
        yield Finding(Level.FAULT, "agreement", d.where, text)


def _values(r: Readings) -> Iterator[Finding]:
    bad = [p.name for p in r.parts if not p.finite]
    yield from _some(Level.FAULT, "values", bad, "holds NaN or infinite numbers.")
    bad = [t.name for t in r.tensors if not math.isfinite(t.rms)]
    yield from _some(Level.FAULT, "values", bad, "is generated with NaN or infinite numbers.")
    bad = [x.name for x in r.layers if not math.isfinite(x.activation)][:1]
    text = "is the first layer whose output has NaN or infinite numbers."
    yield from _some(Level.FAULT, "values", bad, text)
    bad = [p.name for p in r.parts if p.dead]
    text = "holds nothing but zeros, where the plan starts random numbers: a dead part."
    yield from _some(Level.FAULT, "values", bad, text)
    bad = [p.name for p in r.parts if p.alike and p.finite]
    text = "has rows that are all the same: what they stand for cannot be told apart (collapsed)."
    yield from _some(Level.FAULT, "condition", bad, text)


def _dtypes(r: Readings) -> Iterator[Finding]:
    for what, values in (
        ("dtype", {p.name: p.dtype for p in r.parts}),
        ("device", {p.name: p.device for p in r.parts}),
    ):
        counts = {v: list(values.values()).count(v) for v in values.values()}
        usual = max(counts, key=lambda v: counts[v], default="")
        for other in (v for v in counts if v != usual):
            names = [n for n, v in values.items() if v == other]
            text = f"is {other} where the rest of the generator is {usual}: one {what} is wanted."
            yield from _some(Level.FAULT, "dtype", names, text)
    got, wanted = r.dtypes
    if got != wanted and wanted:
        text = f"the outputs are {', '.join(got)}; the plain module gives {', '.join(wanted)}."
        yield Finding(Level.WARNING, "dtype", (), text)


def _part_gradients(r: Readings, resting: bool) -> Iterator[Finding]:
    frozen = [p.name for p in r.parts if not p.trains and not p.idle]
    text = "asks for no gradient (requires_grad is False): frozen, it does not learn."
    yield from _some(Level.WARNING, "gradient", frozen, text)
    if r.errors:
        return
    live = [p for p in r.parts if p.trains and not p.idle]
    cut = [p.name for p in live if p.gradient is None]
    text = (
        f"gets no gradient from the outputs: something on the way cuts it ({r.cuts[0]}), or this "
        "call does not use it."
    )
    yield from _some(Level.FAULT, "gradient", cut, text)
    bad = [p.name for p in live if p.gradient is not None and not math.isfinite(p.gradient)]
    yield from _some(Level.FAULT, "gradient", bad, "gets a gradient with NaN or infinite numbers.")
    zero = [p for p in live if p.gradient == 0.0]
    excused = [p.name for p in zero if resting and not p.starts_zero]
    text = (
        "gets a gradient of zero because the generated changes are still zero: right before the "
        "first step, a fault after it."
    )
    yield from _some(Level.NOTE, "gradient", excused, text)
    dead = [p.name for p in zero if not resting or p.starts_zero]
    text = "gets a gradient of exactly zero: dead units, a factor of zero, or a part without use."
    yield from _some(Level.FAULT, "gradient", dead, text)


def _tensor_gradients(r: Readings) -> Iterator[Finding]:
    loose = [t.name for t in r.tensors if not t.attached]
    text = "is generated without a gradient: the part of the generator that makes it is detached."
    yield from _some(Level.FAULT, "gradient", loose, text)
    missing = [t for t in r.tensors if t.gradient is None]
    cut = [t.name for t in missing if t.used]
    text = (
        "changes the outputs, which give it no gradient: the target's forward cuts it "
        f"({r.cuts[1]})."
    )
    yield from _some(Level.FAULT, "gradient", cut, text)
    unused = [t.name for t in missing if t.used is False]
    text = "is not used by the target for these inputs: it is generated for nothing."
    yield from _some(Level.WARNING, "gradient", unused, text)
    zero = [t.name for t in r.tensors if t.gradient == 0.0]
    text = "has no effect on the outputs to first order: the target's gradient for it is zero."
    yield from _some(Level.NOTE, "gradient", zero, text)


def _dependence(r: Readings, resting: bool) -> Iterator[Finding]:
    if r.tensors and all(t.shared for t in r.tensors):
        text = "nothing depends on the condition: all generated tensors are shared, as asked for."
        yield Finding(Level.NOTE, "condition", (), text)
        return
    if r.unchecked:
        text = f"whether anything depends on the condition was not checked: {r.unchecked}."
        yield Finding(Level.NOTE, "condition", (), text)
        return
    same = [name for name, value in r.stages if _same(value, r)]
    outputs_same = bool(r.stages) and _same(r.stages[-1][1], r)
    if outputs_same and resting:
        text = (
            "the outputs do not depend on the condition: all generated changes are still at "
            "their start. Right before the first step, a fault after it."
        )
        yield Finding(Level.WARNING, "condition", (), text)
    elif outputs_same:
        text = f"the outputs do not depend on the condition; the first to be the same: {same[0]}."
        yield Finding(Level.FAULT, "condition", (), text)
    elif same and not resting:
        text = f"the {same[0]} do not depend on the condition, though the outputs do."
        yield Finding(Level.WARNING, "condition", (), text)
    if r.stages and not outputs_same:
        first, vectors = r.stages[0]
        if vectors is not None and r.tolerance < vectors < WEAK_VECTORS:
            text = (
                f"the {first} hardly differ, by {100 * vectors:.2g} % of their size: what tells "
                "conditions apart is lost in what they share. Subtract the mean, and bring each "
                "number to a spread of about 1."
            )
            yield Finding(Level.WARNING, "condition", (), text)
        weak = r.stages[-1][1]
        if weak is not None and weak < 100 * r.tolerance:
            text = f"the outputs hardly depend on the condition: they differ by {weak:.1g} of them."
            yield Finding(Level.WARNING, "condition", (), text)
        alike = [
            t.name
            for t in r.tensors
            if _same(t.varies, r) and not t.shared and not t.starts_constant
        ]
        yield from _some(
            Level.WARNING, "condition", alike, "is the same for every condition, others are not."
        )


def _changes(r: Readings) -> Iterator[Finding]:
    changed = [t for t in r.tensors if t.change is not None]
    if changed and all(t.change == 0.0 for t in changed):
        text = (
            "the correction is exactly zero, for every condition: the target runs as it was "
            "given. Right before the first step, a fault after it (has the generator trained?)."
        )
        yield Finding(Level.WARNING, "condition", tuple(t.name for t in changed), text)


def _norms(r: Readings) -> Iterator[Finding]:
    rows = [(t.name, t.rms, t.native) for t in r.tensors if t.native > 0]
    zero = [name for name, rms, _ in rows if rms == 0.0]
    text = "is generated as nothing but zeros, where the native one is not."
    yield from _some(Level.FAULT, "scale", zero, text)
    yield from _ratios("norm of the generated tensor", rows)


def _layers(r: Readings) -> Iterator[Finding]:
    rows = [(x.name, x.activation, x.native_activation) for x in r.layers]
    yield from _ratios("scale of the layer's outputs", rows)
    rows = [(x.name, x.gradient, x.native_gradient) for x in r.layers]
    yield from _ratios("scale of the gradient at the layer's outputs", rows)


def _steps(r: Readings) -> Iterator[Finding]:
    if r.step is None:
        return
    text = f"is in no group of {r.step.optimizer}: it does not learn."
    yield from _some(Level.WARNING, "step", r.step.lost, text)
    if r.step.unmeasured:
        text = f"a step of {r.step.optimizer} could not be tried: {r.step.unmeasured}"
        yield Finding(Level.NOTE, "step", (), text)
        return
    if r.step.grows:
        text = f"the step of {r.step.optimizer} grows with the gradient: its size is not judged."
        yield Finding(Level.NOTE, "step", (), text)
        return
    far = {t.name: t for t in r.tensors if t.step is not None and t.step > WARN_STEP}
    if far:
        worst = max(far.values(), key=lambda t: t.step or 0.0)
        text = (
            f"one step of {r.step.optimizer} moves it by up to {100 * (worst.step or 0):.3g} % "
            f"of its spread (a plain network's: {100 * (worst.native_step or 0):.3g} %). Take the "
            "rates of param_groups(), or a lower one."
        )
        level = Level.FAULT if (worst.step or 0.0) > FAULT_STEP else Level.WARNING
        yield Finding(level, "step", tuple(far), text)


def _ratios(what: str, rows: list[tuple[str, float, float]]) -> Iterator[Finding]:
    """Yield a finding for all that are too large, and one for all that are too small."""
    ratios = {
        name: value / native
        for name, value, native in rows
        if native > 0 and value > 0 and math.isfinite(value) and math.isfinite(native)
    }
    for names, word in (
        ([n for n, q in ratios.items() if q > WARN_RATIO], "times"),
        ([n for n, q in ratios.items() if q < 1 / WARN_RATIO], "of"),
    ):
        if names:
            worst = max((ratios[n] for n in names), key=lambda q: abs(math.log(q)))
            far = not 1 / FAULT_RATIO <= worst <= FAULT_RATIO
            text = f"{what} is {worst:.3g} {word} the native one at the farthest: see init=."
            yield from _some(Level.FAULT if far else Level.WARNING, "scale", names, text)


def _rest(r: Readings) -> Iterator[Finding]:
    for text in r.slow:
        yield Finding(Level.NOTE, "speed", (), text)
    for text in r.warnings:
        yield Finding(Level.NOTE, "call", (), text)
    text = "stays the target's own and is not trained: no pattern of the layout names it."
    yield from _some(Level.NOTE, "gradient", r.kept, text)
