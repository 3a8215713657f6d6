"""Convolution with a generated kernel."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from hyperloom._core.errors import message
from hyperloom._core.plan.cost import Layer
from hyperloom.jax._rules.products import Context
from hyperloom.jax._target.arrays import estimated
from hyperloom.jax._weights.factors import Factor, add_up, chain
from hyperloom.jax._weights.weights import StructuredWeight, Term, combination, inner_labels


@dataclass(frozen=True)
class Roles:
    """Which label of a kernel is what: output channel, input channel, space."""

    out: int
    into: int
    space: tuple[int, ...]


def convolve(
    context: Context, x: Array, kernel: StructuredWeight, out: Any, **params: Any
) -> Array:
    """Evaluate `lax.conv_general_dilated` of an array and a generated kernel.

    Shared kernels (templates, bases) are convolved with the inputs of all conditions at once;
    what differs by condition goes into the channels before or after. Where that is dearer the
    kernel is formed.

    Args:
        context: The call.
        x: The inputs of one condition.
        kernel: The kernel.
        out: Shape and dtype of the result.
        **params: As of the primitive.
    """
    spec = params["dimension_numbers"].rhs_spec
    label_o, label_i, *space = (kernel.axes[axis] for axis in spec)
    roles = Roles(label_o, label_i, tuple(space))
    # Order of the operands as the primitive wants them: O, I, space.
    kernel = kernel.transpose(spec)
    way, layer = _way(context, kernel, roles, out, params)
    context.note(kernel, "conv", way, layer)
    if way == "dense":
        weight = lax.transpose(kernel.dense(), _inverse(spec))
        return conv_own(context, x, weight, **params)
    kernel = kernel.cast(kernel.dtype)
    labels = _out_labels(kernel, roles, params)
    summands = [_term(context, x, term, roles, out, params, labels) for term in kernel.terms]
    return add_up(summands, labels, out.shape).astype(out.dtype)


def _inverse(permutation: Any) -> tuple[int, ...]:
    return tuple(sorted(range(len(permutation)), key=permutation.__getitem__))


def _out_labels(kernel: StructuredWeight, roles: Roles, params: dict[str, Any]) -> tuple[int, ...]:
    """Return labels for the result's axes; its channels have the label of the kernel's."""
    fresh = 1 + max(kernel.axes)
    labels = list(range(fresh, fresh + kernel.ndim))
    labels[params["dimension_numbers"].out_spec[1]] = roles.out
    return tuple(labels)


def _way(
    context: Context, kernel: StructuredWeight, roles: Roles, out: Any, params: dict[str, Any]
) -> tuple[str, Layer | None]:
    groups = params["feature_group_count"]
    if kernel.way == "inputs":
        got, wanted = f"'inputs' for {kernel.name!r}", "'dense' or 'outputs': kernels overlap"
        raise ValueError(message("Execution(ways=)", got, wanted))
    if kernel.formed or params["batch_group_count"] > 1:
        return "dense", None
    outputs, fan_in = kernel.shape[0], math.prod(kernel.shape[1:])
    rows = math.prod(map(estimated, out.shape)) // max(1, outputs) * context.times(kernel)
    for term in kernel.terms:
        if _middle(term, roles, groups) is None:
            return "dense", None
        split = combination(kernel, term)
        if split is not None:
            terms = math.prod(split[0].size(label) for label in split[0].labels)
            # Coefficients cannot go into the inputs: kernels overlap.
            layer = Layer(context.num_conditions, rows, terms, fan_in, outputs, math.inf)
            return context.choose(layer, kernel), layer
        sizes = {label: size for factor in term for label, size in factor.sizes().items()}
        inner = inner_labels(kernel, term)
        if inner and 2 * math.prod(sizes[label] for label in inner) > outputs:
            return "dense", None
    return kernel.way or "factors", None


def _middle(
    term: Term, roles: Roles, groups: int
) -> tuple[list[Factor], Factor, list[Factor]] | None:
    """Split a term into what goes into the input channels, a kernel, and what comes after."""
    space = {*roles.space}
    kernels = [factor for factor in term if space & {*factor.labels}]
    if len(kernels) != 1 or not {roles.into, *space} <= {*kernels[0].labels}:
        return None
    if groups > 1 and roles.out not in kernels[0].labels:
        return None
    before, after = [], []
    for factor in term:
        if factor is kernels[0]:
            continue
        if factor.labels == (roles.into,) and groups == 1:
            before.append(factor)
        elif roles.into not in factor.labels:
            after.append(factor)
        else:
            return None
    return before, kernels[0], after


def _term(
    context: Context,
    x: Array,
    term: Term,
    roles: Roles,
    out: Any,
    params: dict[str, Any],
    labels: tuple[int, ...],
) -> Factor:
    split = _middle(term, roles, params["feature_group_count"])
    assert split is not None
    before, middle, after = split
    numbers = params["dimension_numbers"]
    for factor in before:
        shape = [1] * x.ndim
        shape[numbers.lhs_spec[1]] = -1
        x = x * factor.value.reshape(shape).astype(x.dtype)
    # Output channels of the shared kernel: the kernel's own, each with all that is summed later.
    given = (roles.out,) if roles.out in middle.labels else ()
    inner = tuple(k for k in middle.labels if k not in (roles.out, roles.into, *roles.space))
    channels = (*given, *inner)
    value = middle.to((*channels, roles.into, *roles.space))
    sizes = value.shape[: len(channels)]
    weight = value.reshape(math.prod(sizes), *value.shape[len(channels) :])
    weight = lax.transpose(weight, _inverse(numbers.rhs_spec))
    if middle.own:
        y = conv_own(context, x, weight, **params)
    else:
        y = lax.conv_general_dilated(x, weight, **_plain(params))
    at = numbers.out_spec[1]
    y = y.reshape(*y.shape[:at], *sizes, *y.shape[at + 1 :])
    convolved = Factor(y, (*labels[:at], *channels, *labels[at + 1 :]), True)
    return chain(convolved, [f.cast(y.dtype) for f in after], frozenset(labels))


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    wanted = (
        "window_strides",
        "padding",
        "lhs_dilation",
        "rhs_dilation",
        "dimension_numbers",
        "feature_group_count",
        "batch_group_count",
        "precision",
        "preferred_element_type",
    )
    return {name: params[name] for name in wanted}


def conv_own(context: Context, x: Array, kernel: Array, **params: Any) -> Array:
    """Convolve with a kernel of each condition's own.

    XLA:CPU has no fast convolution for that (`vmap` makes it one with as many groups as
    conditions, tens of times slower), so there it is a sum of products of matrices, one for each
    place of the kernel.
    """
    if context.device != "cpu" or context.num_conditions == 1 or params["batch_group_count"] > 1:
        return lax.conv_general_dilated(x, kernel, **_plain(params))
    return shifted(x, kernel, **params)


def shifted(x: Array, kernel: Array, **params: Any) -> Array:
    """Convolve as a sum over the kernel's places of shifted inputs times a matrix.

    Args:
        x: Inputs.
        kernel: The kernel.
        **params: As of `lax.conv_general_dilated`, with one batch group.
    """
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    dtype = params["preferred_element_type"] or x.dtype
    x = lax.transpose(x, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
    kernel = lax.transpose(kernel, (*numbers.rhs_spec[2:], *numbers.rhs_spec[1::-1]))
    between = [d - 1 for d in params["lhs_dilation"]]
    edges = [(lo, hi, d) for (lo, hi), d in zip(params["padding"], between, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    strides, dilation = params["window_strides"], params["rhs_dilation"]
    sizes = kernel.shape[:-2]
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, sizes, strict=True)]
    counts = [
        max(0, (n - span) // s + 1)
        for n, span, s in zip(x.shape[1:-1], spans, strides, strict=True)
    ]
    total = None
    for place in itertools.product(*map(range, sizes)):
        start = [0, *(p * d for p, d in zip(place, dilation, strict=True)), 0]
        stop = [
            x.shape[0],
            *(
                b + s * (c - 1) + 1 if c else b
                for b, s, c in zip(start[1:-1], strides, counts, strict=True)
            ),
            x.shape[-1],
        ]
        part = lax.slice(x, start, stop, [1, *strides, 1])
        y = _matrix(part, kernel[place], groups, params["precision"], dtype)
        total = y if total is None else total + y
    assert total is not None
    out = numbers.out_spec
    order = [0] * total.ndim
    for axis, source in zip((out[0], *out[2:], out[1]), range(total.ndim), strict=True):
        order[axis] = source
    return lax.transpose(total, order)


def _matrix(x: Array, matrix: Array, groups: int, precision: Any, dtype: Any) -> Array:
    """Multiply channels: `(n, *space, I)` times `(I / groups, O)`."""
    options: Any = {"precision": precision, "preferred_element_type": dtype}
    last = x.ndim - 1
    if groups == 1:
        return lax.dot_general(x, matrix, (((last,), (0,)), ((), ())), **options)
    split = x.reshape(*x.shape[:-1], groups, -1)
    matrices = matrix.reshape(matrix.shape[0], groups, -1)
    y = lax.dot_general(split, matrices, (((last + 1,), (0,)), ((last,), (1,))), **options)
    y = lax.transpose(y, (*range(1, y.ndim - 1), 0, y.ndim - 1))
    return y.reshape(*x.shape[:-1], -1)
