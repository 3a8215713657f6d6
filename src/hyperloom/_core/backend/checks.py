"""Checks of arguments that all backends have, for the arrays of any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hyperloom._core.arrays import ArrayKind
from hyperloom._core.backend.factors import Factors, check_factors
from hyperloom._core.choices.conditions import Condition, Custom, CustomRecurrent
from hyperloom._core.choices.trunks import CustomTrunk, Trunk
from hyperloom._core.errors import (
    a_bool,
    a_kind,
    did_you_mean,
    message,
    positive_int,
    shown,
)
from hyperloom._core.plan.plan import Plan


def a_plan(argument: str, value: object) -> Plan:
    """Return `value` if it is a plan; raise `TypeError` otherwise."""
    return a_kind(argument, value, Plan, "a Plan, such as hnet.plan")


def check_again(plan: Plan, condition: Condition | None, trunk: Any, module: type) -> None:
    """Raise unless the modules given with a plan fill the places that the plan leaves open.

    Args:
        plan: The plan.
        condition: The choice that stands for the condition given; `None` for none.
        trunk: The trunk given, or `None`.
        module: The backend's class of modules.
    """
    if condition is not None and condition != plan.condition:
        same = isinstance(condition, Custom) and isinstance(plan.condition, Custom)
        carries = isinstance(condition, CustomRecurrent) == isinstance(
            plan.condition, CustomRecurrent
        )
        sizes = [(c.width, c.context_width) for c in (condition, plan.condition)]
        if not (same and carries and sizes[0] == sizes[1]):
            raise ValueError(message("condition", f"{condition}", f"{plan.condition}, as the plan"))
    if isinstance(plan.trunk, CustomTrunk):
        a_kind("trunk", trunk, module, f"the module that the plan calls {plan.trunk}")
    elif trunk is not None and not (isinstance(trunk, Trunk) and trunk == plan.trunk):
        raise TypeError(message("trunk", shown(trunk), f"None: the plan has {plan.trunk}"))


def refuse_batch(batch: Iterable[int]) -> None:
    """Raise `ValueError` for a batch where one condition is wanted."""
    if batch := tuple(batch):
        got, way_out = f"a batch of conditions {batch}", "Instantiate them one by one."
        raise ValueError(message("condition", got, "one condition", way_out))


def check_params(
    plan: Plan, params: object, kind: ArrayKind, check: Callable[[str, Any], None]
) -> tuple[int, ...]:
    """Check tensors that a user gives for the target; return their batch dimensions.

    Args:
        plan: The plan.
        params: What was given.
        kind: The backend's arrays.
        check: Raises for an array, by its name, of another dtype or device than the target's.

    Raises:
        TypeError: Not a mapping, or a value that is not an array.
        ValueError: A missing or unknown name, a wrong shape, or another batch than the first.
    """
    if not isinstance(params, Mapping):
        wanted = f"a dict from names to {kind.plural}"
        raise TypeError(message("params", f"a {type(params).__name__}", wanted))
    needed = {entry.tensor for entry in plan.entries}
    known = needed | set(plan.kept)
    unknown = [name for name in params if name not in known]
    if unknown:
        got, way_out = f"the name {unknown[0]!r}", did_you_mean(unknown[0], sorted(known))
        raise ValueError(message("params", got, "names of the target", way_out))
    missing = sorted(needed - set(params))
    if missing:
        got = f"no {kind.word.split()[-1]} for {', '.join(map(repr, missing))}"
        raise ValueError(message("params", got, f"{kind.word} for every generated name"))
    batch: tuple[int, ...] | None = None
    for name, value in params.items():
        if isinstance(value, Factors):
            for side in value[:2]:
                kind.check(f"params[{name!r}]", side, f"factors that are {kind.plural}")
            lead = check_factors(value, plan.spec[name])
            if batch is not None and lead != batch:
                got = f"factors of conditions {lead} beside others of {batch}"
                raise ValueError(message(f"params[{name!r}]", got, "one batch for all"))
            batch = lead
            continue
        if not isinstance(value, kind.types):
            raise TypeError(message(f"params[{name!r}]", value, f"{kind.word}, or Factors"))
        check(name, value)
        kept = name in plan.kept
        lead = _leading(plan, name, tuple(value.shape), () if kept else batch)
        batch = batch if kept else lead
    assert batch is not None
    return batch


def _leading(
    plan: Plan, name: str, shape: tuple[int, ...], batch: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Return the dimensions before a tensor's shape; raise unless they are `batch`, if given."""
    wanted_shape = plan.spec[name].shape
    lead = shape[: max(0, len(shape) - len(wanted_shape))]
    if shape[len(lead) :] != wanted_shape or (batch is not None and lead != batch):
        sizes = (*(["*batch"] if batch is None else batch), *wanted_shape)
        wanted = str(sizes).replace("'", "")
        raise ValueError(message(f"params[{name!r}]", f"shape {shape}", f"shape {wanted}"))
    return lead


def num_steps(sizes: Iterable[int], kind: ArrayKind) -> int:
    """Return the number `T` of steps that all arrays of a condition agree on.

    Args:
        sizes: The first dimension of each.
        kind: The backend's arrays.
    """
    lengths = sorted(set(sizes))
    if len(lengths) != 1 or not lengths[0]:
        many, one = kind.plural, kind.word.split()[-1]
        got = f"{many} with {lengths} steps" if lengths else f"no {one} (T, *batch, ...)"
        raise ValueError(message("condition", got, f"{many} of one number T of steps in front"))
    return lengths[0]


def check_trunk_output(
    module: object, output: Any, shape: tuple[int, ...], kind: ArrayKind
) -> None:
    """Raise unless a trunk module of the user's own returns an array of its shape."""
    array = isinstance(output, kind.types)
    if not array or tuple(output.shape) != shape:
        got = f"{kind.word} of shape {tuple(output.shape)}" if array else repr(output)
        argument = f"trunk module {type(module).__name__}"
        raise ValueError(message(argument, got, f"shape {shape}"))


def sees_slots(module: object) -> bool:
    """Whether a trunk module says by `over_slots` that it gets all slots at once."""
    value = getattr(module, "over_slots", False)
    a_bool(f"{type(module).__name__}.over_slots", value)
    return value


def context_dim(module: object, has_carry: bool) -> int:
    """Return the width of the context that a condition module says it returns; 0 for none."""
    value = getattr(module, "context_dim", None)
    if value is None:
        return 0
    name = type(module).__name__
    if has_carry:
        got, wanted = "beside has_carry = True", "a context, or a state"
        raise ValueError(message(f"{name}.context_dim", got, wanted))
    return positive_int(f"{name}.context_dim", value)


def context_wanted(dim: int, context: int) -> str:
    """Return what a condition module with a context is to return."""
    vector = f"a vector (*batch, {dim})" if dim else "None (its `dim` is 0)"
    return f"{vector} and a context (*batch, L, {context}), and its mask (*batch, L) if it has one"


def growing(plan: Plan, num: object, num_tables: int) -> int:
    """Return how many ids to add, if the condition has one table of ids that can grow."""
    added = positive_int("num", num)
    if plan.num_ids is None or num_tables != 1:
        wanted = "a condition with one Embedding to grow"
        raise ValueError(message("add_conditions", plan.condition, wanted))
    return added
