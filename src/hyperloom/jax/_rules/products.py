"""Products of matrices and look-ups with a generated weight, from its factors where cheaper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jax import Array, lax

from hyperloom._core.plan.cost import Layer, choose
from hyperloom.jax._target.arrays import estimated
from hyperloom.jax._weights.choose import Record, device_class
from hyperloom.jax._weights.factors import Factor, add_up, chain, chain_operations, multiply, outer
from hyperloom.jax._weights.weights import StructuredWeight, Term, combination, inner_labels


@dataclass(frozen=True)
class Context:
    """What rules know of the call.

    Attributes:
        num_conditions: Conditions `B` of the `vmap` around.
        repeats: How often the code is run that uses a tensor, inside loops; 1 unless named.
        device: Device class of the cost model: `cpu`, `cuda` or another.
        record: Where to note what was chosen: (tensor, operation, way, layer).
    """

    num_conditions: int
    repeats: Mapping[str, int] = field(default_factory=dict[str, int])
    device: str = field(default_factory=device_class)
    record: Record | None = None

    def note(self, weight: StructuredWeight, op: str, way: str, layer: Layer | None = None) -> None:
        """Tell `explain()` what was chosen."""
        if self.record is not None:
            self.record(weight.name, op, way, layer)

    def times(self, weight: StructuredWeight) -> int:
        """Return how often the code is run that uses the weight."""
        return self.repeats.get(weight.name, 1)

    def choose(self, layer: Layer, weight: StructuredWeight) -> str:
        """Ask the cost model, unless the user says it."""
        return weight.way or choose(layer, np.dtype(weight.dtype).itemsize, self.device)


Dims = tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]


def dot(
    context: Context, x: Array, weight: StructuredWeight, first: bool, out: Any, **params: Any
) -> Array:
    """Evaluate `lax.dot_general` of an array and a weight.

    Args:
        context: The call.
        x: The array.
        weight: The weight.
        first: Whether the weight is the first operand.
        out: Shape and dtype of the result.
        **params: As of the primitive.
    """
    (contract_l, contract_r), (batch_l, batch_r) = params["dimension_numbers"]
    if first:
        contract_l, contract_r, batch_l, batch_r = contract_r, contract_l, batch_r, batch_l
    plan = _Dot.of(x, weight, (contract_l, batch_l), (contract_r, batch_r), first)
    way, layer = _dot_way(context, plan, weight)
    context.note(weight, "linear", way, layer)
    if way == "dense":
        operands = (weight.dense(), x) if first else (x, weight.dense())
        return lax.dot_general(*operands, **_plain(params))
    options = {"precision": params["precision"], "preferred_element_type": out.dtype}
    weight = weight.cast(weight.dtype)
    summands = []
    for term in weight.terms:
        split = combination(weight, term)
        if split is None or way == "factors":
            summands.append(chain(plan.x, term, plan.keep, **options))
        else:
            summands.append(_combine(plan, *split, way, options))
    return add_up(summands, plan.out, out.shape).astype(out.dtype)


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    wanted = ("dimension_numbers", "precision", "preferred_element_type", "out_sharding")
    return {name: params[name] for name in wanted if name in params}


@dataclass(frozen=True)
class _Dot:
    """A product by labels.

    Attributes:
        x: The array; its axes have the weight's labels where they meet.
        out: Labels of the result.
        contract: Labels that are summed over.
        batch: Labels that both have and the result too.
    """

    x: Factor
    out: tuple[int, ...]
    contract: tuple[int, ...]
    batch: tuple[int, ...]

    @property
    def keep(self) -> frozenset[int]:
        return frozenset(self.out)

    @staticmethod
    def of(x: Array, weight: StructuredWeight, of_x: Any, of_w: Any, first: bool) -> _Dot:
        fresh = 1 + max((*weight.axes, -1))
        labels = list(range(fresh, fresh + x.ndim))
        for axes_of_x, axes_of_w in zip(of_x, of_w, strict=True):
            for a, b in zip(axes_of_x, axes_of_w, strict=True):
                labels[a] = weight.axes[b]
        contract, batch = (tuple(weight.axes[b] for b in which) for which in of_w)
        met = {*contract, *batch}
        free_x = tuple(label for label in labels if label not in met)
        free_w = tuple(label for label in weight.axes if label not in met)
        free = (*free_w, *free_x) if first else (*free_x, *free_w)
        return _Dot(Factor(x, tuple(labels), True), (*batch, *free), contract, batch)


def _dot_way(context: Context, plan: _Dot, weight: StructuredWeight) -> tuple[str, Layer | None]:
    if weight.formed:
        return "dense", None
    sizes = plan.x.sizes()
    rows = math.prod(n for k, n in sizes.items() if k not in weight.axes) * context.times(weight)
    fan_in = math.prod(weight.size(label) for label in plan.contract)
    batch = math.prod(weight.size(label) for label in plan.batch)
    fan_out = math.prod(weight.shape) // max(1, fan_in)
    for term in weight.terms:
        split = combination(weight, term)
        if split is not None:
            terms = math.prod(split[0].size(label) for label in split[0].labels)
            layer = Layer(context.num_conditions, rows, terms, fan_in, fan_out, fan_in * batch)
            # Beside other factors there is one way only: the estimates say whether it is worth it.
            return context.choose(layer, weight), layer
        if inner_labels(weight, term) and _dear(context, plan, weight, term, rows * fan_in):
            return "dense", None
    return weight.way or "factors", None


def _dear(
    context: Context, plan: _Dot, weight: StructuredWeight, term: Term, per_output: int
) -> bool:
    """Whether the factors of a product cost more than forming and using the weight."""
    sizes = {label: size for factor in term for label, size in factor.sizes().items()}
    form = math.prod(sizes.values())
    use = per_output * (math.prod(weight.shape) // max(1, _size(weight, plan.contract)))
    return context.times(weight) * chain_operations(plan.x, term, plan.keep) > form + use


def _size(weight: StructuredWeight, labels: Sequence[int]) -> int:
    return math.prod(weight.size(label) for label in labels)


def _combine(plan: _Dot, c: Factor, t: Factor, way: str, options: dict[str, Any]) -> Factor:
    """Apply a sum of templates, coefficients into the inputs or into the outputs."""
    if way == "inputs" and len(c.labels) == 1:
        return multiply(outer(plan.x, c), t, plan.keep, **options)
    y = multiply(plan.x, t, plan.keep.union(c.labels), **options)
    return multiply(y, c.cast(y.value.dtype), plan.keep)


# ---- look-ups ----------------------------------------------------------------------------------


def look_up(
    context: Context, weight: StructuredWeight, indices: Array, out: Any, **params: Any
) -> Array:
    """Evaluate `lax.gather` of whole rows (`jnp.take`, embeddings); anything else is formed."""
    numbers = params["dimension_numbers"]
    axis = _taken_axis(weight, numbers, params["slice_sizes"])
    if axis is None or not _fills_alike(weight, axis, params):
        context.note(weight, "embedding", "dense")
        return _gather(weight.dense(), indices, numbers, params["slice_sizes"], params)
    label, num = weight.axes[axis], weight.shape[axis]
    count = math.prod(map(estimated, indices.shape[:-1])) * context.times(weight)
    split = combination(weight, weight.terms[0])
    if weight.formed or count >= num:
        context.note(weight, "embedding", "dense")
        return _gather(weight.dense(), indices, numbers, params["slice_sizes"], params)
    context.note(weight, "embedding", "factors" if split is None else "outputs")
    fresh = 1 + max((*weight.axes, -1))
    rows = tuple(range(fresh, fresh + indices.ndim - 1))
    others = iter(a for a in weight.axes if a != label)
    ids = iter(rows)
    places = [i in numbers.offset_dims for i in range(len(out.shape))]
    labels = tuple(next(others) if place else next(ids) for place in places)
    weight, summands = weight.cast(weight.dtype), []
    for term in weight.terms:
        taken = [_take(factor, label, rows, indices, params) for factor in term]
        summands.append(chain(taken[-1], taken[:-1], frozenset(labels)))
    return add_up(summands, labels, out.shape).astype(out.dtype)


def _taken_axis(weight: StructuredWeight, numbers: Any, sizes: Sequence[int]) -> int | None:
    """Return the one axis along which single rows are taken whole, `None` if it is not so."""
    if numbers.operand_batching_dims or len(numbers.start_index_map) != 1:
        return None
    (axis,) = numbers.start_index_map
    whole = all(s == (1 if i == axis else weight.shape[i]) for i, s in enumerate(sizes))
    return axis if whole and tuple(numbers.collapsed_slice_dims) == (axis,) else None


def _fills_alike(weight: StructuredWeight, axis: int, params: dict[str, Any]) -> bool:
    """Whether rows out of range come out the same from factors: as NaN, or as 0."""
    label, value = weight.axes[axis], params.get("fill_value")
    if value is not None and not (value == 0 or np.isnan(value)):
        return False
    return all(any(label in factor.labels for factor in term) for term in weight.terms)


def _take(
    factor: Factor, label: int, rows: tuple[int, ...], indices: Array, params: dict[str, Any]
) -> Factor:
    if label not in factor.labels:
        return factor
    axis, ndim = factor.labels.index(label), indices.ndim - 1
    offset = tuple(range(ndim, ndim + len(factor.labels) - 1))
    numbers = lax.GatherDimensionNumbers(offset, (axis,), (axis,))
    sizes = tuple(1 if i == axis else n for i, n in enumerate(factor.value.shape))
    value = _gather(factor.value, indices, numbers, sizes, params)
    rest = tuple(other for other in factor.labels if other != label)
    return replace(factor, value=value, labels=(*rows, *rest), own=True)


def _gather(
    operand: Array, indices: Array, numbers: Any, sizes: Sequence[int], params: dict[str, Any]
) -> Array:
    return lax.gather(
        operand,
        indices,
        numbers,
        tuple(sizes),
        unique_indices=params["unique_indices"],
        indices_are_sorted=params["indices_are_sorted"],
        mode=params["mode"],
        fill_value=params["fill_value"],
    )
