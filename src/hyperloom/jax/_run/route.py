"""Which way a call goes: decided once, from its sizes; `explain()` prints it."""

from __future__ import annotations

from dataclasses import dataclass

from hyperloom._core.choices.execution import Execution
from hyperloom._core.plan.plan import Plan
from hyperloom.jax._run.call import Call
from hyperloom.jax._weights.make import worth_objects


@dataclass(frozen=True)
class Route:
    """The way of a call.

    Attributes:
        strategy: `single`, `vmap` or `loop`.
        reason: Why.
        at_once: How many conditions are run at once; the others follow, part by part.
        recompute: Whether the backward pass generates and runs again.
        as_objects: Whether generated weights are objects that are applied by their parts.
    """

    strategy: str
    reason: str
    at_once: int
    recompute: bool
    as_objects: bool


_REASONS = {
    "single": "one condition: the target is run as it is",
    "vmap": "the target is traced, and its equations run for all conditions at once",
}


def route(plan: Plan, execution: Execution, call: Call, itemsize: int | None) -> Route:
    """Decide how a call is run.

    Args:
        plan: The plan.
        execution: How batches are to be run.
        call: The call.
        itemsize: Bytes of a generated number; `None` for tensors that are there already.
    """
    strategy = "vmap" if call.batch else "single"
    if itemsize is None:
        return Route(strategy, _REASONS[strategy], call.num, False, False)
    most = execution.conditions_at_once(plan.output_bytes(1, itemsize))
    at_once = call.num if most is None else min(most, call.num)
    as_objects = strategy == "vmap" and worth_objects(plan, at_once, call.rows(), itemsize)
    return Route(strategy, _REASONS[strategy], at_once, execution.recompute, as_objects)
