"""Which way a call goes: decided once, from its sizes; `explain()` prints it."""

from __future__ import annotations

from dataclasses import dataclass

from hyperloom._core.plan.plan import Plan
from hyperloom.jax._run.call import Call
from hyperloom.jax._run.runner import Runner
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


def route(plan: Plan, runner: Runner, call: Call, itemsize: int | None) -> Route:
    """Decide how a call is run.

    Args:
        plan: The plan.
        runner: The runner.
        call: The call.
        itemsize: Bytes of a generated number; `None` for tensors that are there already.
    """
    execution = runner.execution
    strategy, reason = _strategy(runner, call)
    if itemsize is None:
        return Route(strategy, reason, call.num, False, False)
    most = execution.conditions_at_once(plan.output_bytes(1, itemsize))
    at_once = call.num if most is None else min(most, call.num)
    as_objects = strategy == "vmap" and worth_objects(plan, at_once, call.rows(), itemsize)
    return Route(strategy, reason, at_once, execution.recompute, as_objects)


def _strategy(runner: Runner, call: Call) -> tuple[str, str]:
    """Return the name of the strategy, and why."""
    execution, found = runner.execution, runner.memory.loops.get(call.kind())
    if not call.batch:
        return "single", "one condition: the target is run as it is"
    if execution.strategy == "loop":
        return "loop", "execution asks for one condition after the other"
    if execution.strategy == "auto" and found is not None:
        return "loop", found
    return "vmap", "the target is traced, and its equations run for all conditions at once"
