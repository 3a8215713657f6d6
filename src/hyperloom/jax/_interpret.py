"""Running a target's pure function with generated weights in place of its parameters.

The function is traced with plain arrays, which any module takes, and its equations are evaluated
one by one. Equations that meet a weight have rules: products of matrices, convolutions, look-ups
and whatever only changes how a weight is seen. An equation without a rule gets the dense array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from hyperloom._cost import Layer
from hyperloom.jax._contract import Context, Record, dot, look_up
from hyperloom.jax._convolve import convolve
from hyperloom.jax._structured import Joined, StructuredWeight


def axes(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `in_axes` of `jax.vmap` for weights of a batch of conditions."""
    return {
        name: weight.in_axes if isinstance(weight, StructuredWeight) else 0
        for name, weight in weights.items()
    }


def call(
    pure: Callable[..., Any],
    weights: Mapping[str, Any],
    *args: Any,
    num_conditions: int = 1,
    record: Record | None = None,
) -> Any:
    """Return `pure(tensors, *args)` for the weights of one condition.

    Args:
        pure: The target as a function of its tensors `{name: array}`, its state and its inputs.
        weights: For each generated name a weight object, without the dimension of conditions;
            dense arrays are welcome among them.
        *args: Whatever else `pure` takes.
        num_conditions: Conditions `B` of the `vmap` around, which the costs depend on.
        record: Where to note what was chosen: (tensor, operation, way, layer).
    """
    if not any(isinstance(weight, StructuredWeight) for weight in weights.values()):
        return pure(dict(weights), *args)
    plain = {name: _plain(weight) for name, weight in weights.items()}
    closed, shape = jax.make_jaxpr(pure, return_shape=True)(plain, *args)
    given = [weights[name] for name in sorted(weights)]
    flat = [*given, *jax.tree.leaves(args)]
    made = evaluate(Context(num_conditions, record=record), closed, flat)
    return jax.tree.unflatten(jax.tree.structure(shape), made)


def _plain(weight: Any) -> Any:
    if isinstance(weight, StructuredWeight):
        return jax.ShapeDtypeStruct(weight.shape, weight.dtype)
    return weight


def evaluate(context: Context, closed: Any, args: Sequence[Any]) -> list[Any]:
    """Evaluate a closed jaxpr on arrays and weights; what it returns is arrays."""
    return [_dense(context, value) for value in _evaluate(context, closed, args)]


def _evaluate(context: Context, closed: Any, args: Sequence[Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        made = _equation(context, equation, operands)
        values.update(zip(equation.outvars, made, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(context: Context, equation: Any, operands: list[Any]) -> Sequence[Any]:
    if any(isinstance(value, (StructuredWeight, Joined)) for value in operands):
        joined = any(isinstance(value, Joined) for value in operands)
        rule = (_OF_JOINED if joined else _RULES).get(equation.primitive.name)
        made = rule(context, equation, operands) if rule is not None else None
        if made is not None:
            return made
        operands = [_dense(context, value) for value in operands]
    return _bind(equation, operands)


def _dense(context: Context, value: Any) -> Any:
    if isinstance(value, (StructuredWeight, Joined)):
        for part in value.parts if isinstance(value, Joined) else (value,):
            context.note(part, "other", "dense")
        return value.dense()
    return value


def _bind(equation: Any, operands: Sequence[Any]) -> Sequence[Any]:
    primitive = equation.primitive
    found = primitive.get_bind_params(equation.params)
    functions, params = found if isinstance(found, tuple) else ((), found)
    with equation.ctx.manager:
        made = primitive.bind(*functions, *operands, **params)
    return made if primitive.multiple_results else [made]


# ---- layers ------------------------------------------------------------------------------------

Made = Sequence[Any] | None


def _dot(context: Context, equation: Any, operands: list[Any]) -> Made:
    x, y = operands
    out = equation.outvars[0].aval
    if isinstance(x, StructuredWeight) and isinstance(y, StructuredWeight):
        x = _dense(context, x)
    if isinstance(y, StructuredWeight):
        return [dot(context, x, y, False, out, **equation.params)]
    return [dot(context, y, x, True, out, **equation.params)]


def _conv(context: Context, equation: Any, operands: list[Any]) -> Made:
    x, kernel = operands
    if not isinstance(kernel, StructuredWeight):
        return None
    out = equation.outvars[0].aval
    return [convolve(context, _dense(context, x), kernel, out, **equation.params)]


def _gather(context: Context, equation: Any, operands: list[Any]) -> Made:
    weight, indices = operands
    if not isinstance(weight, StructuredWeight):
        return None
    out = equation.outvars[0].aval
    return [look_up(context, weight, indices, out, **equation.params)]


# ---- the same weight seen in another way ---------------------------------------------------------


def _transpose(_: Context, equation: Any, operands: list[Any]) -> Made:
    return [operands[0].transpose(equation.params["permutation"])]


def _reshape(_: Context, equation: Any, operands: list[Any]) -> Made:
    shape = equation.outvars[0].aval.shape
    if len(operands) > 1 or 0 in shape or equation.params.get("dimensions") is not None:
        return None
    made = operands[0].reshape(shape)
    return None if made is None else [made]


def _broadcast(_: Context, equation: Any, operands: list[Any]) -> Made:
    weight, shape = operands[0], equation.outvars[0].aval.shape
    kept = [n for n in shape if n != 1] == [n for n in weight.shape if n != 1]
    if len(operands) > 1 or not kept or 0 in shape:
        return None
    made = weight.reshape(shape)
    return None if made is None else [made]


def _convert(_: Context, equation: Any, operands: list[Any]) -> Made:
    weight, dtype = operands[0], jnp.dtype(equation.params["new_dtype"])
    # A wider dtype would show the rounding to the narrower one, which factors do not have.
    if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize > weight.dtype.itemsize:
        return None
    return [weight.cast(dtype)]


def _multiply(_: Context, equation: Any, operands: list[Any]) -> Made:
    x, y = operands
    if isinstance(y, StructuredWeight):
        x, y = y, x
    if isinstance(y, StructuredWeight) or jnp.ndim(y) != 0:
        return None
    return [x.scale(y)]


def _divide(_: Context, equation: Any, operands: list[Any]) -> Made:
    x, y = operands
    if isinstance(y, StructuredWeight) or jnp.ndim(y) != 0:
        return None
    return [x.scale(1 / y)]


def _negate(_: Context, equation: Any, operands: list[Any]) -> Made:
    return [operands[0].scale(-1)]


def _slice(_: Context, equation: Any, operands: list[Any]) -> Made:
    weight, params = operands[0], equation.params
    steps = params["strides"] or (1,) * weight.ndim
    each = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    for axis, (start, stop, step) in enumerate(each):
        if (start, stop, step) != (0, weight.shape[axis], 1):
            weight = weight.slice(axis, start, stop, step)
    return [weight]


def _split(_: Context, equation: Any, operands: list[Any]) -> Made:
    weight, start, made = operands[0], 0, []
    for size in equation.params["sizes"]:
        made.append(weight.slice(equation.params["axis"], start, start + int(size)))
        start += int(size)
    return made


# ---- weights side by side ------------------------------------------------------------------------


def _concatenate(_: Context, equation: Any, operands: list[Any]) -> Made:
    if not all(isinstance(value, StructuredWeight) for value in operands):
        return None
    return [Joined(tuple(operands), equation.params["dimension"])]


def _transpose_joined(context: Context, equation: Any, operands: list[Any]) -> Made:
    (joined,), order = operands, equation.params["permutation"]
    parts = tuple(part.transpose(order) for part in joined.parts)
    return [Joined(parts, tuple(order).index(joined.axis))]


def _convert_joined(context: Context, equation: Any, operands: list[Any]) -> Made:
    (joined,) = operands
    made = [_convert(context, equation, [part]) for part in joined.parts]
    if any(part is None for part in made):
        return None
    return [Joined(tuple(part[0] for part in made if part is not None), joined.axis)]


def _dot_joined(context: Context, equation: Any, operands: list[Any]) -> Made:
    first = isinstance(operands[0], Joined)
    joined, x = operands if first else reversed(operands)
    if isinstance(x, (StructuredWeight, Joined)):
        return None
    contract, batch = equation.params["dimension_numbers"]
    of_w, of_x = contract if first else reversed(contract)
    met, out = {*of_w, *batch[0 if first else 1]}, equation.outvars[0].aval
    made, start = [], 0
    if joined.axis in met:
        if joined.axis not in of_w:
            return None
        along = of_x[list(of_w).index(joined.axis)]
        for part in joined.parts:
            size = part.shape[joined.axis]
            own = lax.slice_in_dim(x, start, start + size, axis=along)
            made.append(dot(context, own, part, first, out, **equation.params))
            start += size
        return [sum(made[1:], made[0])]
    before = sum(axis not in met for axis in range(joined.axis)) + len(batch[0])
    at = before if first else before + jnp.ndim(x) - len(of_x) - len(batch[0])
    for part in joined.parts:
        shape = (*out.shape[:at], part.shape[joined.axis], *out.shape[at + 1 :])
        own = jax.ShapeDtypeStruct(shape, out.dtype)
        made.append(dot(context, x, part, first, own, **equation.params))
    return [lax.concatenate(made, at)]


# ---- functions in functions ----------------------------------------------------------------------


def _inline(context: Context, equation: Any, operands: list[Any]) -> Made:
    params = equation.params
    return _evaluate(
        context, params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"], operands
    )


def _checkpoint(context: Context, equation: Any, operands: list[Any]) -> Made:
    params = equation.params
    closed = core.ClosedJaxpr(params["jaxpr"], [])
    function = jax.checkpoint(
        lambda *args: evaluate(context, closed, args),
        prevent_cse=params["prevent_cse"],
        policy=params["policy"],
    )
    return function(*operands)


def _cond(context: Context, equation: Any, operands: list[Any]) -> Made:
    index, *args = operands
    if isinstance(index, StructuredWeight):
        return None

    def branch(closed: Any) -> Callable[..., Any]:
        return lambda *args: evaluate(context, closed, args)

    return lax.switch(index, [branch(closed) for closed in equation.params["branches"]], *args)


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
        constants, carried = params["num_consts"], params["num_carry"]
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
        self.start = [_dense(context, operands[i]) for i in self.carried]
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
        made = _evaluate(context, self.body, args)
        after = [_dense(context, made[i - constants]) for i in self.carried]
        return after, [_dense(context, value) for value in made[carried:]]

    def _inside(self, context: Context) -> Context:
        used = [v.name for v in self.fixed.values() if isinstance(v, StructuredWeight)]
        repeats = dict(context.repeats)
        for name in used:
            repeats[name] = repeats.get(name, 1) * self.options["length"]
        return replace(context, repeats=repeats)

    def formed_inside(self, context: Context) -> set[str]:
        """Return the names of the weights that some equation of a step would form."""
        found: list[tuple[str, str, str, Layer | None]] = []
        inside = replace(self._inside(context), record=lambda *note: found.append(note))
        first = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), self.over)
        jax.eval_shape(
            lambda carry, over: self._step(inside, self.fixed, carry, over), self.start, first
        )
        names = {v.name for v in self.fixed.values() if isinstance(v, StructuredWeight)}
        formed = {name for name, _, way, _ in found if way == "dense"} & names
        if context.record is not None:
            for note in dict.fromkeys(note for note in found if note[0] in formed):
                context.record(*note)
        return formed

    def run(self, context: Context, formed: set[str]) -> list[Any]:
        """Run the loop; the named weights are formed before it."""
        fixed = {
            i: v.dense() if isinstance(v, StructuredWeight) and v.name in formed else v
            for i, v in self.fixed.items()
        }
        inside = self._inside(context)
        after, made = lax.scan(
            lambda carry, over: self._step(inside, fixed, carry, over),
            self.start,
            self.over,
            **self.options,
        )
        left = iter(after)
        constants, carried = self.num
        ends = [fixed[constants + i] if i in self.same else next(left) for i in range(carried)]
        return [*ends, *made]


def _dense_if_joined(context: Context, value: Any) -> Any:
    return _dense(context, value) if isinstance(value, Joined) else value


_RULES: dict[str, Callable[[Context, Any, list[Any]], Made]] = {
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "gather": _gather,
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "broadcast_in_dim": _broadcast,
    "convert_element_type": _convert,
    "mul": _multiply,
    "div": _divide,
    "neg": _negate,
    "slice": _slice,
    "split": _split,
    "jit": _inline,
    "pjit": _inline,
    "closed_call": _inline,
    "checkpoint": _checkpoint,
    "remat2": _checkpoint,
    "remat": _checkpoint,
    "cond": _cond,
    "concatenate": _concatenate,
    "scan": _scan,
}

_OF_JOINED: dict[str, Callable[[Context, Any, list[Any]], Made]] = {
    "dot_general": _dot_joined,
    "transpose": _transpose_joined,
    "convert_element_type": _convert_joined,
    "jit": _inline,
    "pjit": _inline,
}
