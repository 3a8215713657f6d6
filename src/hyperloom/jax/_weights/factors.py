"""Arrays whose axes have labels, and products of them.

A generated weight is a sum of products of such arrays; layers multiply their input with one
array after the other. This code runs inside `vmap` over conditions, so no array has a condition
axis here. An array is `own` if its numbers differ between conditions. Where one of two arrays is
not, XLA sees their product as one large product for all conditions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from hyperloom.jax._target.arrays import estimated


@partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["labels", "own"])
@dataclass(frozen=True)
class Factor:
    """An array with a label for each axis.

    Attributes:
        value: The array.
        labels: Labels of its axes (the condition axis, where it shows, is in front and has none).
        own: Whether each condition has numbers of its own.
    """

    value: Any
    labels: tuple[int, ...]
    own: bool

    def size(self, label: int) -> int:
        """Return the length of an axis."""
        shape = self.value.shape
        return shape[len(shape) - len(self.labels) + self.labels.index(label)]

    def sizes(self) -> dict[int, int]:
        """Return the length of every axis by its label, as far as it is known."""
        shape = self.value.shape[-len(self.labels) :]
        return dict(zip(self.labels, map(estimated, shape), strict=True))

    def to(self, labels: Sequence[int]) -> Array:
        """Return the array with axes in the order of `labels`, of length 1 where it has none."""
        order = [self.labels.index(label) for label in labels if label in self.labels]
        shape = [self.size(label) if label in self.labels else 1 for label in labels]
        value = self.value if order == sorted(order) else lax.transpose(self.value, order)
        return value.reshape(shape)

    def cast(self, dtype: Any) -> Factor:
        """Return the factor in another dtype."""
        return self if self.value.dtype == dtype else replace(self, value=self.value.astype(dtype))


def multiply(a: Factor, b: Factor, keep: frozenset[int], **options: Any) -> Factor:
    """Multiply, and sum over the labels that nobody needs any more.

    Args:
        a: A factor.
        b: Another one.
        keep: Labels to keep; all others are summed over.
        **options: `precision` and `preferred_element_type` of a product of matrices.
    """
    a, b = _sum_alone(a, b, keep), _sum_alone(b, a, keep)
    summed = [label for label in a.labels if label in b.labels and label not in keep]
    free = [label for label in b.labels if label not in a.labels]
    if not summed:
        return _elementwise(a, b)
    batch = [label for label in a.labels if label in b.labels and label in keep]
    dims: Any = [
        [[factor.labels.index(label) for label in which] for factor in (a, b)]
        for which in (summed, batch)
    ]
    product = lax.dot_general(a.value, b.value, dims, **options)
    rest = [label for label in a.labels if label not in b.labels]
    return Factor(product, (*batch, *rest, *free), a.own or b.own)


def _sum_alone(a: Factor, other: Factor, keep: frozenset[int]) -> Factor:
    """Sum `a` over labels that only it has and nobody needs."""
    alone = [label for label in a.labels if label not in keep and label not in other.labels]
    if not alone:
        return a
    axes = tuple(a.labels.index(label) for label in alone)
    left = tuple(label for label in a.labels if label not in alone)
    return Factor(a.value.sum(axes), left, a.own)


def _elementwise(a: Factor, b: Factor) -> Factor:
    labels = (*a.labels, *(label for label in b.labels if label not in a.labels))
    return Factor(a.to(labels) * b.to(labels), labels, a.own or b.own)


def outer(x: Factor, c: Factor) -> Factor:
    """Return the outer product of `x` and a vector, whose axis comes last.

    As a product of matrices: its backward pass sums while it multiplies.
    """
    numbers = lax.dot_general(x.value.reshape(-1, 1), c.value[None], (((1,), (0,)), ((), ())))
    return Factor(numbers.reshape(*x.value.shape, -1), (*x.labels, *c.labels), True)


def chain(x: Factor, factors: Iterable[Factor], keep: frozenset[int], **options: Any) -> Factor:
    """Multiply `x` with all factors, each time with the one that leaves the least numbers."""
    for factor, still in order(x, factors, keep):
        x = multiply(x, factor, still, **options)
    # What no factor had is summed over here.
    return _sum_alone(x, Factor(None, (), False), keep)


def order(
    x: Factor, factors: Iterable[Factor], keep: frozenset[int]
) -> list[tuple[Factor, frozenset[int]]]:
    """Return the factors in the order of `chain`, with the labels that each product keeps."""
    left, ordered = list(factors), []
    sizes = {**x.sizes(), **{k: n for factor in left for k, n in factor.sizes().items()}}
    labels = x.labels
    while left:
        candidates = []
        for i in range(len(left)):
            others = (label for f in (*left[:i], *left[i + 1 :]) for label in f.labels)
            still = keep.union(others)
            both = [n for n in dict.fromkeys((*labels, *left[i].labels)) if n in still]
            candidates.append((math.prod(sizes[n] for n in both), i, still, tuple(both)))
        _, i, still, labels = min(candidates, key=lambda entry: entry[0])
        ordered.append((left.pop(i), still))
    return ordered


def chain_operations(x: Factor, factors: Iterable[Factor], keep: frozenset[int]) -> int:
    """Return how many multiplications `chain` makes."""
    factors = list(factors)
    sizes = {**x.sizes(), **{k: n for factor in factors for k, n in factor.sizes().items()}}
    labels, total = set(x.labels), 0
    for factor, still in order(x, factors, keep):
        labels.update(factor.labels)
        total += math.prod(sizes[label] for label in labels)
        labels &= still
    return total


def add_up(parts: Sequence[Factor], labels: Sequence[int], shape: Sequence[int]) -> Array:
    """Add factors as an array of axes `labels` and sizes `shape`, repeated where they lack one."""
    total = parts[0].to(labels)
    for part in parts[1:]:
        total = total + part.to(labels)
    return jnp.broadcast_to(total, tuple(shape))
