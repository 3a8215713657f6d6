"""Equations of a traced function, evaluated on arrays and generated weights.

Equations that meet a weight have rules (`equations.py`, `control.py`); one without a rule gets the
dense array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core

from hyperloom.jax._rules.products import Context
from hyperloom.jax._target.arrays import ranks_promoted
from hyperloom.jax._weights.weights import Joined, StructuredWeight

Made = Sequence[Any] | None
Rule = Callable[[Context, Any, list[Any]], Made]
# By the primitive's name: private modules of JAX have the primitives that no public one has.
RULES: dict[str, Rule] = {}
RULES_OF_JOINED: dict[str, Rule] = {}


def rule(*names: str, of: dict[str, Rule] = RULES) -> Callable[[Rule], Rule]:
    """Register a function as the rule of primitives.

    It gets the call, the equation and its operands, and returns the results, or `None` where it
    has no better way than dense arrays.
    """

    def register(function: Rule) -> Rule:
        of.update(dict.fromkeys(names, function))
        return function

    return register


@ranks_promoted
def evaluate(context: Context, closed: Any, args: Sequence[Any]) -> list[Any]:
    """Evaluate a closed jaxpr on arrays and weights; what it returns is arrays."""
    return [to_dense(context, value) for value in evaluate_lazily(context, closed, args)]


def evaluate_lazily(context: Context, closed: Any, args: Sequence[Any]) -> list[Any]:
    """As `evaluate`, but weights may be among what it returns."""
    jaxpr = closed.jaxpr
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        results = _equation(context, equation, operands)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(context: Context, equation: Any, operands: list[Any]) -> Sequence[Any]:
    if any(isinstance(value, (StructuredWeight, Joined)) for value in operands):
        joined = any(isinstance(value, Joined) for value in operands)
        handler = (RULES_OF_JOINED if joined else RULES).get(equation.primitive.name)
        results = handler(context, equation, operands) if handler is not None else None
        if results is not None:
            return results
        operands = [to_dense(context, value) for value in operands]
    return _bind(equation, operands)


def to_dense(context: Context, value: Any) -> Any:
    """Form a weight that an equation without a rule wants; anything else is returned as it is."""
    if isinstance(value, (StructuredWeight, Joined)):
        for part in value.parts if isinstance(value, Joined) else (value,):
            context.note(part, "other", "dense")
        return value.dense()
    return value


def _bind(equation: Any, operands: Sequence[Any]) -> Sequence[Any]:
    primitive = equation.primitive
    bind_params = primitive.get_bind_params(equation.params)
    functions, params = bind_params if isinstance(bind_params, tuple) else ((), bind_params)
    with equation.ctx.manager:
        results = primitive.bind(*functions, *operands, **params)
    return results if primitive.multiple_results else [results]
