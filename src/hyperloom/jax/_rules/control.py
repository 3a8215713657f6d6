"""Rules for functions in functions and loops that generated weights go into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jax import lax
from jax.extend import core

from hyperloom._core.plan.cost import Layer
from hyperloom.jax._rules.evaluate import (
    RULES_OF_JOINED,
    Made,
    evaluate,
    evaluate_lazily,
    rule,
    to_dense,
)
from hyperloom.jax._rules.products import Context
from hyperloom.jax._weights.weights import Joined, StructuredWeight


@rule("jit", "pjit", of=RULES_OF_JOINED)
@rule("jit", "pjit", "closed_call")
def _inline(context: Context, equation: Any, operands: list[Any]) -> Made:
    params = equation.params
    return evaluate_lazily(
        context, params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"], operands
    )


@rule("checkpoint", "remat2", "remat")
def _checkpoint(context: Context, equation: Any, operands: list[Any]) -> Made:
    params = equation.params
    closed = core.ClosedJaxpr(params["jaxpr"], [])
    function = jax.checkpoint(
        lambda *args: evaluate(context, closed, args),
        prevent_cse=params["prevent_cse"],
        policy=params["policy"],
    )
    return function(*operands)


@rule("cond")
def _cond(context: Context, equation: Any, operands: list[Any]) -> Made:
    index, *args = operands
    if isinstance(index, StructuredWeight):
        return None

    def branch(closed: Any) -> Callable[..., Any]:
        return lambda *args: evaluate(context, closed, args)

    return lax.switch(index, [branch(closed) for closed in equation.params["branches"]], *args)


@rule("scan")
def _scan(context: Context, equation: Any, operands: list[Any]) -> Made:
    params = equation.params
    if params["length"] == 0:
        return None
    loop = _Loop(context, params, [_dense_if_joined(context, value) for value in operands])
    # Formed in the loop it would be formed in every step; so those are formed here.
    formed = loop.formed_inside(context)
    return loop.run(context, formed)


class _Loop:
    """A `lax.scan` over equations that use weights.

    Args:
        params: Of the primitive.
        operands: Constants, what is carried, what is looped over.
    """

    def __init__(self, context: Context, params: dict[str, Any], operands: list[Any]) -> None:
        self.body = params["jaxpr"]
        self.options = {name: params[name] for name in ("length", "reverse", "unroll")}
        constants, carried = _constants_and_carried(params)
        invars, outvars = self.body.jaxpr.invars, self.body.jaxpr.outvars
        # What is carried and never changed is as good as a constant.
        self.same = {
            i
            for i in range(carried)
            if isinstance(operands[constants + i], StructuredWeight)
            and outvars[i] is invars[constants + i]
        }
        self.fixed = {i: operands[i] for i in range(constants)}
        self.fixed.update({constants + i: operands[constants + i] for i in self.same})
        self.carried = [constants + i for i in range(carried) if i not in self.same]
        self.start = [to_dense(context, operands[i]) for i in self.carried]
        self.num = (constants, carried)
        self.over, self.makers = [], []
        for value in operands[constants + carried :]:
            arrays, maker = (
                value.steps() if isinstance(value, StructuredWeight) else ([value], None)
            )
            self.over.append(arrays)
            self.makers.append(maker)

    def _step(self, context: Context, fixed: dict[int, Any], carry: Any, over: Any) -> Any:
        values = dict(fixed)
        values.update(zip(self.carried, carry, strict=True))
        slices = [
            arrays[0] if maker is None else maker(arrays)
            for arrays, maker in zip(over, self.makers, strict=True)
        ]
        constants, carried = self.num
        args = [*(values[i] for i in range(constants + carried)), *slices]
        results = evaluate_lazily(context, self.body, args)
        after = [to_dense(context, results[i - constants]) for i in self.carried]
        return after, [to_dense(context, value) for value in results[carried:]]

    def _inside(self, context: Context) -> Context:
        used = [v.name for v in self.fixed.values() if isinstance(v, StructuredWeight)]
        repeats = dict(context.repeats)
        for name in used:
            repeats[name] = repeats.get(name, 1) * self.options["length"]
        return replace(context, repeats=repeats)

    def formed_inside(self, context: Context) -> set[str]:
        """Return the names of the weights that some equation of a step would form."""
        notes: list[tuple[str, str, str, Layer | None]] = []
        inside = replace(self._inside(context), record=lambda *note: notes.append(note))
        first = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), self.over)
        jax.eval_shape(
            lambda carry, over: self._step(inside, self.fixed, carry, over), self.start, first
        )
        names = {v.name for v in self.fixed.values() if isinstance(v, StructuredWeight)}
        formed = {name for name, _, way, _ in notes if way == "dense"} & names
        if context.record is not None:
            for note in dict.fromkeys(note for note in notes if note[0] in formed):
                context.record(*note)
        return formed

    def run(self, context: Context, formed: set[str]) -> list[Any]:
        """Run the loop; the named weights are formed before it."""
        fixed = {
            i: v.dense() if isinstance(v, StructuredWeight) and v.name in formed else v
            for i, v in self.fixed.items()
        }
        inside = self._inside(context)
        after, stacked = lax.scan(
            lambda carry, over: self._step(inside, fixed, carry, over),
            self.start,
            self.over,
            **self.options,
        )
        left = iter(after)
        constants, carried = self.num
        ends = [fixed[constants + i] if i in self.same else next(left) for i in range(carried)]
        return [*ends, *stacked]


def _constants_and_carried(params: dict[str, Any]) -> tuple[int, int]:
    """Return how many operands of a scan are constants, and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carried, _ = map(len, params["ft_in"].unpack())  # since JAX 0.12
    return constants, carried


def _dense_if_joined(context: Context, value: Any) -> Any:
    return to_dense(context, value) if isinstance(value, Joined) else value
