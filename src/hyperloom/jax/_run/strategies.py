"""The ways in which a target is run on its conditions: a table of functions of one signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from hyperloom.jax._rules import interpret
from hyperloom.jax._run.call import Call
from hyperloom.jax._run.mapped import mapped
from hyperloom.jax._run.runner import Runner
from hyperloom.jax._target.adaptor import Notes
from hyperloom.jax._target.arrays import estimated, is_array
from hyperloom.jax._weights.choose import Record

Result = tuple[Any, dict[str, Any]]


@dataclass(frozen=True)
class Target:
    """A target to run: what all conditions have in common.

    Attributes:
        runner: The runner.
        shared: Tensors that all conditions share, by name.
        notes: Where to note what the target does to its state and its streams.
        record: Who is told how generated tensors are used.
    """

    runner: Runner
    shared: Mapping[str, Array]
    notes: Notes
    record: Record | None = None

    def function(self, call: Call) -> Callable[..., Result]:
        """Return the target as `f(tensors, slices, shared, state, arrays)` for one condition.

        The state that it returns, where it is wanted, is what the target has from the start, so
        that it can be given back, and what the call has made anew.
        """
        pure = self.runner.target.pure(self.notes, call.method)
        names = frozenset(self.runner.target.state())

        def function(tensors: Any, slices: Any, shared: Any, state: Any, arrays: Any) -> Result:
            paired, keys, given = slices
            args, kwargs = call.inputs.rebuild(paired, arrays)
            out, left = pure({**shared, **tensors}, {**state, **given}, keys, args, kwargs)
            wanted = names | self.notes.anew if call.mutable else frozenset[str]()
            wanted |= self.notes.captured
            return out, {n: v for n, v in left.items() if n in wanted}

        return function

    def common(self, call: Call) -> tuple[Any, ...]:
        """Return what the function takes after the slices of one condition."""
        state = self.runner.target.state()
        # What is no array (a number, as a setting) stays as the template has it.
        base = {n: v for n, v in state.items() if n not in call.state and is_array(v)}
        return dict(self.shared), base, call.inputs.shared


def run_single(target: Target, weights: Mapping[str, Any], call: Call) -> Result:
    """Run the target once, as it is."""
    return target.function(call)(dict(weights), call.slices(), *target.common(call))


def run_vmap(target: Target, weights: Mapping[str, Any], call: Call) -> Result:
    """Run the target for all conditions at once, its equations by rules of our own."""
    function, common = target.function(call), target.common(call)
    num = estimated(call.num)
    weights = interpret.with_kernels(weights, num)

    def one(weights: Any, slices: Any) -> Result:
        options: Any = {"num_conditions": num, "record": target.record}
        return interpret.call(function, weights, slices, *common, **options)

    axes = (interpret.axes(weights), 0)
    return jax.vmap(one, in_axes=axes, axis_size=call.num)(weights, call.slices())


def run_loop(target: Target, weights: Mapping[str, Any], call: Call) -> Result:
    """Run the target on one condition after the other: the definition of a batch."""
    function, common = target.function(call), target.common(call)
    tensors = interpret.formed_for_all(weights, call.num, target.record)
    return mapped(lambda x: function(*x, *common), (tensors, call.slices()))


STRATEGIES: dict[str, Callable[[Target, Mapping[str, Any], Call], Result]] = {
    "single": run_single,
    "vmap": run_vmap,
    "loop": run_loop,
}
