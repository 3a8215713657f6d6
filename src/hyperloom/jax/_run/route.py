"""Which way a call goes: decided once, from its sizes; `explain()` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hyperloom._core.choices.patterns import resolve
from hyperloom._core.errors import message
from hyperloom._core.plan.contraction import made_bytes
from hyperloom._core.plan.plan import Plan
from hyperloom.jax._run.call import Call
from hyperloom.jax._run.runner import Runner
from hyperloom.jax._target.arrays import estimated
from hyperloom.jax._weights.make import worth_objects


@dataclass(frozen=True)
class Route:
    """The way of a call.

    Attributes:
        strategy: `single`, `vmap` or `loop`.
        reason: Why.
        at_once: How many conditions are run at once, where others follow, part by part; `None`
            for all.
        recompute: Whether the backward pass generates and runs again.
        as_objects: Whether generated weights are objects that are applied by their parts.
        ways: How layers are evaluated that the user names.
    """

    strategy: str
    reason: str
    at_once: int | None
    recompute: bool
    as_objects: bool
    ways: Mapping[str, str] = field(default_factory=dict[str, str])


def route(plan: Plan, runner: Runner, call: Call, itemsize: int | None) -> Route:
    """Decide how a call is run.

    Args:
        plan: The plan.
        runner: The runner.
        call: The call.
        itemsize: Bytes of a generated number; `None` for tensors that are there already.

    Raises:
        ValueError: A bound on memory and a number of conditions that is a symbol.
    """
    execution = runner.execution
    strategy, reason = _strategy(runner, call)
    if itemsize is None:
        return Route(strategy, reason, None, False, False)
    most = execution.conditions_at_once(made_bytes(plan, itemsize))
    if most is not None and not isinstance(call.num, int):
        got, wanted = f"{execution} with {call.num} conditions", "no max_memory, or a known number"
        raise ValueError(message("execution", got, wanted))
    at_once = None if most is None or most >= call.num else most
    num = estimated(call.num) if at_once is None else at_once
    ways = ways_of(plan, runner)
    worth = bool(ways) or worth_objects(plan, num, call.rows(), itemsize)
    return Route(strategy, reason, at_once, execution.recompute, worth and strategy == "vmap", ways)


def ways_of(plan: Plan, runner: Runner) -> dict[str, str]:
    """Return how the user says that layers are evaluated, by name of the weight."""
    asked = runner.execution.ways
    return {} if asked is None else resolve("Execution(ways=)", asked, str, plan.spec)


def _strategy(runner: Runner, call: Call) -> tuple[str, str]:
    """Return the name of the strategy, and why."""
    execution, why_loop = runner.execution, runner.memory.loops.get(call.kind())
    if not call.batch:
        return "single", "one condition: the target is run as it is"
    if execution.strategy == "loop":
        return "loop", "execution asks for one condition after the other"
    if execution.strategy == "auto" and why_loop is not None:
        return "loop", why_loop
    return "vmap", "the target is traced, and its equations run for all conditions at once"
