"""Rules for equations that meet a generated weight: layers, and the same weight seen otherwise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hyperloom.jax._rules.convolutions import convolve
from hyperloom.jax._rules.evaluate import RULES_OF_JOINED, Made, rule, to_dense
from hyperloom.jax._rules.products import Context, dot, look_up
from hyperloom.jax._weights.weights import Joined, StructuredWeight

# ---- layers ------------------------------------------------------------------------------------


@rule("dot_general")
def _dot(context: Context, equation: Any, operands: list[Any]) -> Made:
    x, y = operands
    out = equation.outvars[0].aval
    if isinstance(y, StructuredWeight):  # of two, the first is formed
        return [dot(context, to_dense(context, x), y, False, out, **equation.params)]
    return [dot(context, y, x, True, out, **equation.params)]


@rule("conv_general_dilated")
def _conv(context: Context, equation: Any, operands: list[Any]) -> Made:
    x, kernel = operands
    if not isinstance(kernel, StructuredWeight):
        return None
    out = equation.outvars[0].aval
    return [convolve(context, to_dense(context, x), kernel, out, **equation.params)]


@rule("gather")
def _gather(context: Context, equation: Any, operands: list[Any]) -> Made:
    weight, indices = operands
    if not isinstance(weight, StructuredWeight):
        return None
    out = equation.outvars[0].aval
    return [look_up(context, weight, indices, out, **equation.params)]


# ---- the same weight seen in another way ---------------------------------------------------------


@rule("transpose")
def _transpose(_: Context, equation: Any, operands: list[Any]) -> Made:
    return [operands[0].transpose(equation.params["permutation"])]


@rule("reshape", "squeeze", "expand_dims")
def _reshape(_: Context, equation: Any, operands: list[Any]) -> Made:
    shape = equation.outvars[0].aval.shape
    if len(operands) > 1 or 0 in shape or equation.params.get("dimensions") is not None:
        return None
    reshaped = operands[0].reshape(shape)
    return None if reshaped is None else [reshaped]


@rule("broadcast_in_dim")
def _broadcast(_: Context, equation: Any, operands: list[Any]) -> Made:
    weight, shape = operands[0], equation.outvars[0].aval.shape
    kept = [n for n in shape if n != 1] == [n for n in weight.shape if n != 1]
    if len(operands) > 1 or not kept or 0 in shape:
        return None
    reshaped = weight.reshape(shape)
    return None if reshaped is None else [reshaped]


@rule("convert_element_type")
def _convert(_: Context, equation: Any, operands: list[Any]) -> Made:
    weight, dtype = operands[0], jnp.dtype(equation.params["new_dtype"])
    # Factors that were rounded do not give the weight that was rounded: such a one is formed
    # before it is widened again.
    kinds = [factor.value.dtype.itemsize for term in weight.terms for factor in term]
    widest = max(weight.dtype.itemsize, min(kinds))
    if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize > widest:
        return None
    return [weight.cast(dtype)]


@rule("mul")
def _multiply(_: Context, equation: Any, operands: list[Any]) -> Made:
    x, y = operands
    if isinstance(y, StructuredWeight):
        x, y = y, x
    if isinstance(y, StructuredWeight) or jnp.ndim(y) != 0:
        return None
    return [x.scale(y)]


@rule("div")
def _divide(_: Context, equation: Any, operands: list[Any]) -> Made:
    x, y = operands
    if isinstance(y, StructuredWeight) or jnp.ndim(y) != 0:
        return None
    return [x.scale(1 / y)]


@rule("neg")
def _negate(_: Context, equation: Any, operands: list[Any]) -> Made:
    return [operands[0].scale(-1)]


@rule("slice")
def _slice(_: Context, equation: Any, operands: list[Any]) -> Made:
    weight, params = operands[0], equation.params
    steps = params["strides"] or (1,) * weight.ndim
    ranges = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    for axis, (start, stop, step) in enumerate(ranges):
        if (start, stop, step) != (0, weight.shape[axis], 1):
            weight = weight.slice(axis, start, stop, step)
    return [weight]


@rule("split")
def _split(_: Context, equation: Any, operands: list[Any]) -> Made:
    weight, start, parts = operands[0], 0, []
    for size in equation.params["sizes"]:
        parts.append(weight.slice(equation.params["axis"], start, start + int(size)))
        start += int(size)
    return parts


# ---- weights side by side ------------------------------------------------------------------------


@rule("concatenate")
def _concatenate(_: Context, equation: Any, operands: list[Any]) -> Made:
    if not all(isinstance(value, StructuredWeight) for value in operands):
        return None
    return [Joined(tuple(operands), equation.params["dimension"])]


@rule("transpose", of=RULES_OF_JOINED)
def _transpose_joined(context: Context, equation: Any, operands: list[Any]) -> Made:
    (joined,), order = operands, equation.params["permutation"]
    parts = tuple(part.transpose(order) for part in joined.parts)
    return [Joined(parts, tuple(order).index(joined.axis))]


@rule("convert_element_type", of=RULES_OF_JOINED)
def _convert_joined(context: Context, equation: Any, operands: list[Any]) -> Made:
    (joined,) = operands
    results = [_convert(context, equation, [part]) for part in joined.parts]
    if any(part is None for part in results):
        return None
    return [Joined(tuple(part[0] for part in results if part is not None), joined.axis)]


@rule("dot_general", of=RULES_OF_JOINED)
def _dot_joined(context: Context, equation: Any, operands: list[Any]) -> Made:
    first = isinstance(operands[0], Joined)
    joined, x = operands if first else reversed(operands)
    if isinstance(x, (StructuredWeight, Joined)):
        return None
    contract, batch = equation.params["dimension_numbers"]
    of_w, of_x = contract if first else reversed(contract)
    met, out = {*of_w, *batch[0 if first else 1]}, equation.outvars[0].aval
    products, start = [], 0
    if joined.axis in met:
        if joined.axis not in of_w:
            return None
        along = of_x[list(of_w).index(joined.axis)]
        for part in joined.parts:
            size = part.shape[joined.axis]
            x_of_part = lax.slice_in_dim(x, start, start + size, axis=along)
            products.append(dot(context, x_of_part, part, first, out, **equation.params))
            start += size
        return [sum(products[1:], products[0])]
    before = sum(axis not in met for axis in range(joined.axis)) + len(batch[0])
    at = before if first else before + jnp.ndim(x) - len(of_x) - len(batch[0])
    for part in joined.parts:
        shape = (*out.shape[:at], part.shape[joined.axis], *out.shape[at + 1 :])
        out_of_part = jax.ShapeDtypeStruct(shape, out.dtype)
        products.append(dot(context, x, part, first, out_of_part, **equation.params))
    return [lax.concatenate(products, at)]
