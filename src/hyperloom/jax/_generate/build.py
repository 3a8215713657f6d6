"""From choices to a plan and the modules that execute it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hyperloom._core.backend.checks import a_plan, check_again, growing
from hyperloom._core.backend.walk import (
    SAMPLE_ELEMENTS,
    SLOT_TABLES,
    needs_moments,
    num_samples,
    refuse_trunk,
    starts_of_later_ids,
    values_used,
)
from hyperloom._core.choices.conditions import Concat, Condition
from hyperloom._core.choices.trunks import MLP, CustomTrunk
from hyperloom._core.errors import message
from hyperloom._core.plan.axes import with_axes
from hyperloom._core.plan.compile import compile_plan
from hyperloom._core.plan.plan import Plan
from hyperloom._core.target.spec import TargetSpec
from hyperloom.jax._generate.conditions import (
    ConcatCondition,
    EmbeddingCondition,
    Encoded,
    build_condition,
    joined,
)
from hyperloom.jax._generate.draws import Start
from hyperloom.jax._generate.generator import Generator
from hyperloom.jax._generate.heads import build_head
from hyperloom.jax._generate.linen import as_part
from hyperloom.jax._generate.norms import IdNorm
from hyperloom.jax._generate.numbers import feature_moments
from hyperloom.jax._generate.recurrent import RecurrentCondition
from hyperloom.jax._generate.sets import ContextCondition
from hyperloom.jax._generate.slots import make_tables
from hyperloom.jax._generate.trunks import build_trunk, neutral_trunk
from hyperloom.jax._target.adaptor import Read
from hyperloom.jax._target.arrays import ranks_promoted
from hyperloom.jax._target.read import read_target
from hyperloom.jax._target.variables import Fixed, Param, is_traced, walk


@ranks_promoted
def build(given: Planned, rngs: nnx.Rngs) -> Generator:
    """Make the modules that execute a plan, and fill them with their start."""
    plan, native = given.plan, given.read.values
    start = Start(rngs, generator_dtype(plan.spec), native)
    _refuse_lost_values(plan, native)
    heads = nnx.Dict({h.name: build_head(plan, i, start) for i, h in enumerate(plan.heads)})
    if plan.slot_tables:
        heads[SLOT_TABLES] = make_tables(plan.slot_tables, start)
    pairs = [[p.scale, p.shift] for p in plan.pieces]
    scales = Fixed(start.array(pairs)) if plan.has_scales else None
    banks = nnx.List(
        [nnx.Param(start.array(start.uniform(bank.shape, bank.std))) for bank in plan.banks]
    )
    bases = _bases(plan, native)
    later = nnx.Dict({name: Fixed(jnp.asarray(native[name])) for name in starts_of_later_ids(plan)})
    parts = (given.condition, given.trunks, heads, scales, bases, banks, later)
    generator = Generator(plan.fill_caches(), *parts, dropout=None)
    _fill(generator, start)
    drops = isinstance(plan.trunk, MLP) and plan.trunk.dropout > 0
    return replace(generator, dropout=rngs.dropout.fork()) if drops else generator


def kept_tensors(given: Planned) -> nnx.Dict[Any]:
    """Take the target's tensors that nothing generates."""
    values = given.read.values
    return nnx.Dict({name: Fixed(jnp.asarray(values[name])) for name in given.plan.kept})


def _refuse_lost_values(plan: Plan, native: Mapping[str, Any]) -> None:
    """Raise if values are used of a target that has only shapes."""
    for name in values_used(plan):
        if isinstance(native[name], jax.ShapeDtypeStruct):
            got = f"{name!r} of a target that has only shapes"
            way_out = "Give the target its values, or generate this tensor."
            raise ValueError(message("target", got, "values to keep or to start from", way_out))


def _bases(plan: Plan, native: Mapping[str, Any]) -> nnx.Dict[Any]:
    """Take the target's tensors that forms change."""
    return nnx.Dict(
        {
            e.tensor: (nnx.Param if e.form.trains_base else Fixed)(jnp.asarray(native[e.tensor]))
            for e in plan.entries
            if e.form.has_base
        }
    )


def _fill(generator: Generator, start: Start) -> None:
    """Give every linear head its start; measure the trunk's features first."""
    moments = _moments(generator)
    for i, head in enumerate(generator.plan.heads):
        divisor = generator.heads[head.name].start(moments.get(i, 1.0), start)
        if generator.scales is not None and (is_traced(divisor) or divisor != 1.0):
            rows, _ = generator.plan.sections[i]
            scales = generator.scales.get_value()
            generator.scales.set_value(scales.at[np.asarray(rows), 0].divide(divisor))


def _moments(built: Generator) -> dict[int, Any]:
    """Measure the features that heads see, where a start depends on it."""
    if not needs_moments(built.plan):
        return {}  # samples of a flat vector as wide as a target would be large
    samples = sample_conditions(built.plan, built.condition)
    try:
        return feature_moments(built.plan, built.trunks, built.heads, samples)
    except (TypeError, ValueError) as error:
        refuse_trunk(built.plan, len(samples.vector), error)


def sample_conditions(plan: Plan, module: Any) -> Encoded:
    """Return conditions to measure features on: the ids there are, or draws of the given std."""
    return _sample(plan.condition, module, num_samples(plan), np.random.RandomState(0))


def _sample(choice: Condition, module: Any, num: int, draws: np.random.RandomState) -> Encoded:
    if isinstance(module, EmbeddingCondition):
        return module(np.arange(num) % module.table.num)
    if isinstance(module, RecurrentCondition):
        return Encoded(module.sample(num, draws))
    if isinstance(choice, Concat):
        assert isinstance(module, ConcatCondition)
        pairs = zip(choice.parts, module.parts, strict=True)
        return joined([_sample(part, built, num, draws) for part, built in pairs])
    if isinstance(module, ContextCondition):
        shape = num, SAMPLE_ELEMENTS, module.choice.dim
        return module(_draw(shape, module.choice.std, draws, module))
    std = getattr(choice, "std", 1.0)
    context = None
    if choice.context_width:
        context = _draw((num, SAMPLE_ELEMENTS, choice.context_width), 1.0, draws, module)
    return Encoded(_draw((num, choice.width), std, draws, module), context=context)


def _draw(
    shape: tuple[int, ...], std: float, draws: np.random.RandomState, module: Any
) -> jax.Array:
    """Return normal draws in the dtype of what a module holds."""
    held = [v.dtype for _, v in walk(module) if jnp.issubdtype(v.dtype, jnp.floating)]
    dtype = getattr(module, "dtype", held[0] if held else jnp.float32)
    draw = draws.standard_normal(shape)
    # Scaled to the stated mean square exactly: else chance in the draws shifts a head's start.
    draw *= std / np.sqrt(np.square(draw).mean()) if draw.size else 1.0
    return jnp.asarray(draw.astype(dtype))


@ranks_promoted
def grow(generator: Generator, num: int, rngs: nnx.Rngs) -> tuple[Plan, list[Param]]:
    """Add `num` ids to everything that is looked up by id; return the new plan and parameters."""
    plan = generator.plan
    modules = [m for _, m in nnx.iter_modules(generator.condition)]
    embeddings = [m for m in modules if isinstance(m, EmbeddingCondition)]
    num = growing(plan, num, len(embeddings))
    dtype = generator_dtype(plan.spec)
    start = Start(rngs, dtype, {name: generator.native[name][...] for name in generator.native})
    table = embeddings[0].table
    added = [table.grow(embeddings[0].new_rows(num, start))]
    for head in plan.heads:
        added += generator.heads[head.name].grow(num, start)
    for _, part in nnx.iter_modules(generator.trunks):
        if isinstance(part, IdNorm):
            part.grow(num)
    return replace(plan, condition=plan.condition.with_more_ids(num)).fill_caches(), added


@dataclass(frozen=True)
class Planned:
    """A target with its plan and the modules of condition and trunks."""

    read: Read
    plan: Plan
    condition: nnx.Module
    trunks: nnx.List[Any]


def planned(
    target: Any,
    condition: Any,
    trunk: Any,
    choices: tuple[Any, Any, Any],
    rngs: nnx.Rngs,
    axes: Mapping[str, tuple[str, ...]] | None = None,
) -> Planned:
    """Compile choices for a target; `choices` are layout, form and init."""
    read = read_target(target)
    read = replace(read, spec=with_axes(read.spec, axes))
    start = Start(rngs, generator_dtype(read.spec), read.values)
    neutral, module = build_condition(condition, start)
    trunk = as_part(trunk)
    plan = compile_plan(read.spec, neutral, neutral_trunk(trunk), *choices)
    return Planned(read, plan, module, build_trunks(plan, trunk, start))


def planned_again(target: Any, plan: Plan, condition: Any, trunk: Any, rngs: nnx.Rngs) -> Planned:
    """Take a plan for a target; `condition` and `trunk` are the modules of the user's own."""
    read = read_target(target)
    differences = a_plan("plan", plan).spec.differences(read.spec)
    if differences:
        wanted = f"the tensors of {plan.spec.name}"
        raise ValueError(message("target", "; ".join(differences[:3]), wanted))
    start = Start(rngs, generator_dtype(read.spec), read.values)
    neutral, module = build_condition(plan.condition if condition is None else condition, start)
    trunk = as_part(trunk)
    check_again(plan, None if condition is None else neutral, trunk, nnx.Module)
    return Planned(read, plan, module, build_trunks(plan, trunk, start))


def generator_dtype(spec: TargetSpec) -> Any:
    """Return the dtype of what is learned: float64 if the target is float64, else float32."""
    floats = [t.dtype for t in spec if t.dtype.startswith(("float", "bfloat"))]
    double = bool(floats) and all(d == "float64" for d in floats)
    return jnp.dtype("float64" if double else "float32")


def check_rngs(rngs: Any) -> nnx.Rngs:
    """Return `rngs` if it can give keys for parameters; raise otherwise."""
    if not isinstance(rngs, nnx.Rngs) or not ("params" in rngs or "default" in rngs):
        got = "Rngs without a stream for params" if isinstance(rngs, nnx.Rngs) else repr(rngs)
        way_out = "Make one from a seed: rngs=nnx.Rngs(0)."
        raise TypeError(
            message("rngs", got, "an nnx.Rngs with a params or default stream", way_out)
        )
    return rngs


def build_trunks(plan: Plan, given: Any, start: Start) -> nnx.List[Any]:
    """Make one trunk for each width; a module of the user's own serves one width only."""
    widths = [plan.condition.width + w for w in plan.widths]
    if isinstance(plan.trunk, CustomTrunk) and len(widths) > 1:
        way_out = "Give the layouts one embedding width, or use MLP, which is built for each."
        got = f"one module for inputs of widths {widths}"
        raise ValueError(message("trunk", got, "heads that agree on the input's width", way_out))
    choice = given if isinstance(given, nnx.Module) else plan.trunk
    known = plan.num_ids, start, plan.condition.context_width
    return nnx.List([build_trunk(choice, width, *known) for width in widths])
