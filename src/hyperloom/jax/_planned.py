"""From choices to a plan, with the modules of the user's own that it says nothing of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import nnx

from hyperloom._compile import compile_plan
from hyperloom._errors import message
from hyperloom._plan import Plan
from hyperloom._spec import TargetSpec
from hyperloom._trunk import CustomTrunk
from hyperloom.jax._adaptor import Read
from hyperloom.jax._conditions import build_condition
from hyperloom.jax._start import Start
from hyperloom.jax._target import read_target
from hyperloom.jax._trunks import build_trunk, neutral_trunk


@dataclass(frozen=True)
class Planned:
    """A target with its plan and the modules of condition and trunks."""

    read: Read
    plan: Plan
    condition: nnx.Module
    trunks: nnx.List[Any]


def planned(
    target: Any, condition: Any, trunk: Any, choices: tuple[Any, Any, Any], rngs: nnx.Rngs
) -> Planned:
    """Compile choices for a target; `choices` are layout, form and init."""
    read = read_target(target)
    start = Start(rngs, generator_dtype(read.spec), read.values)
    neutral, module = build_condition(condition, start)
    plan = compile_plan(read.spec, neutral, neutral_trunk(trunk), *choices)
    return Planned(read, plan, module, build_trunks(plan, trunk, start))


def planned_again(target: Any, plan: Plan, condition: Any, trunk: Any, rngs: nnx.Rngs) -> Planned:
    """Take a plan for a target; `condition` and `trunk` are the modules of the user's own."""
    read = read_target(target)
    found = plan.spec.differences(read.spec)
    if found:
        wanted = f"the tensors of {plan.spec.name}"
        raise ValueError(message("target", "; ".join(found[:3]), wanted))
    start = Start(rngs, generator_dtype(read.spec), read.values)
    _, module = build_condition(plan.condition if condition is None else condition, start)
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
    return nnx.List([build_trunk(choice, width, plan.num_ids, start) for width in widths])
