"""Generated weights as objects: sums of products of arrays, of which few differ by condition.

`base + sum_r c_r T_r`, `base + U V`, `base * rows * columns` and `base + s` are all of one kind:
a sum of terms, a term a product of factors, a factor an array whose axes are axes of the weight
or are summed over. So there is one class, and layers have one rule for all of them. A weight is
a pytree: `in_axes` says which of its arrays have an axis of conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array, lax

from hyperloom._core.errors import message
from hyperloom.jax._generate.table import look_up
from hyperloom.jax._weights.factors import Factor, add_up, multiply

Term = tuple[Factor, ...]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["terms"],
    meta_fields=["name", "axes", "shape", "dtype", "way"],
)
@dataclass(frozen=True)
class StructuredWeight:
    """A generated weight of one condition, inside `vmap`; before it, of `B` conditions.

    Attributes:
        terms: What it is the sum of; each the product of factors.
        name: Its tensor's name.
        axes: The label of each axis. Labels below zero are summed over in a product.
        shape: Shape of one condition's weight.
        dtype: Dtype that the module sees.
        way: How layers are to be evaluated, if the user says it; else `""`.
    """

    terms: tuple[Term, ...]
    name: str
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: Any
    way: str = ""

    @property
    def in_axes(self) -> Any:
        """`in_axes` of `jax.vmap` over the conditions: a tree with 0 and `None` in it."""
        return self._with_leaves(lambda factor: 0 if factor.own else None)

    def look_up(self, ids: Array) -> StructuredWeight:
        """Return the weights of the conditions `ids` `(B,)` among those that this one is of."""
        return self._with_leaves(lambda f: look_up(f.value, ids) if f.own else f.value)

    def _with_leaves(self, leaf: Any) -> StructuredWeight:
        terms = tuple(tuple(replace(f, value=leaf(f)) for f in term) for term in self.terms)
        return replace(self, terms=terms)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def formed(self) -> bool:
        """Whether it is there as an array already."""
        return len(self.terms) == 1 and len(self.terms[0]) == 1

    def size(self, label: int) -> int:
        """Return the length of the axis with a label."""
        return self.shape[self.axes.index(label)]

    def forced(self, way: str) -> StructuredWeight:
        """Return the same weight, to be evaluated in one way always.

        Raises:
            ValueError: It has no such way.
        """
        if way != "dense" and all(combination(self, term) is None for term in self.terms):
            got, wanted = f"{way!r} for {self.name!r}", "'dense': it is no sum of templates"
            raise ValueError(message("Execution(ways=)", got, wanted))
        return replace(self, way=way)

    def cast(self, dtype: Any) -> StructuredWeight:
        """Return the weight with all its arrays in a dtype."""
        terms = tuple(tuple(factor.cast(dtype) for factor in term) for term in self.terms)
        return replace(self, terms=terms, dtype=np.dtype(dtype))

    def dense(self) -> Array:
        """Form the weight of one condition."""
        keep = frozenset(self.axes)
        products = []
        for first, *others in self.terms:
            for i, other in enumerate(others):
                later = (label for factor in others[i + 1 :] for label in factor.labels)
                first = multiply(first, other, keep.union(later))
            products.append(first)
        return add_up(products, self.axes, self.shape).astype(self.dtype)

    # ---- the same weight seen in another way -------------------------------------------------

    def transpose(self, permutation: Sequence[int]) -> StructuredWeight:
        """As `lax.transpose`: nothing is moved."""
        axes = tuple(self.axes[p] for p in permutation)
        return replace(self, axes=axes, shape=tuple(self.shape[p] for p in permutation))

    def scale(self, number: Any) -> StructuredWeight:
        """Multiply with a scalar."""
        terms = tuple(
            (replace(first, value=first.value * number), *others) for first, *others in self.terms
        )
        return replace(self, terms=terms)

    def slice(self, axis: int, start: int, stop: int, step: int = 1) -> StructuredWeight:
        """Take a range of an axis."""
        label = self.axes[axis]

        def cut(factor: Factor) -> Any:
            if label not in factor.labels:
                return factor.value
            return lax.slice_in_dim(factor.value, start, stop, step, factor.labels.index(label))

        shape = list(self.shape)
        shape[axis] = len(range(start, stop, step))
        return replace(self._with_leaves(cut), shape=tuple(shape))

    def steps(self) -> tuple[list[Array], Callable[[Sequence[Any]], StructuredWeight]]:
        """Take the weight apart along its first axis, for a loop over it.

        Returns:
            Arrays to loop over, and what makes the weight of one step from one slice of each.
        """
        label, *axes = self.axes
        arrays = []
        for factor in (factor for term in self.terms for factor in term):
            if label in factor.labels:
                arrays.append(factor.to((label, *_without(factor.labels, label))))

        def one(slices: Sequence[Any]) -> StructuredWeight:
            left = iter(slices)
            terms = tuple(
                tuple(
                    Factor(next(left), _without(f.labels, label), f.own) if label in f.labels else f
                    for f in term
                )
                for term in self.terms
            )
            return replace(self, terms=terms, axes=tuple(axes), shape=self.shape[1:])

        return arrays, one

    def reshape(self, shape: Sequence[int]) -> StructuredWeight | None:
        """Return the weight in another shape, `None` where its factors do not allow it."""
        groups = _groups(self.shape, tuple(shape))
        fresh = 1 + max((*self.axes, -1))
        new: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = []
        for old, sizes in groups:
            labels = tuple(self.axes[i] for i in old)
            if len(old) == len(sizes) == 1:
                new.append((labels, labels, sizes))
            else:
                new.append((labels, tuple(range(fresh, fresh + len(sizes))), sizes))
                fresh += len(sizes)
        terms = []
        for term in self.terms:
            factors = [_regroup(factor, new) for factor in term]
            if any(factor is None for factor in factors):
                return None
            terms.append(tuple(factors))
        axes = tuple(label for _, labels, _ in new for label in labels)
        return replace(self, terms=tuple(terms), axes=axes, shape=tuple(shape))


def _without(labels: tuple[int, ...], label: int) -> tuple[int, ...]:
    return tuple(other for other in labels if other != label)


Groups = list[tuple[tuple[int, ...], tuple[int, ...]]]


def _groups(old: tuple[int, ...], new: tuple[int, ...]) -> Groups:
    """Cut two shapes of equal size into the shortest runs of axes with equal sizes.

    Returns:
        For each run the old axes and the new sizes.
    """
    runs: Groups = []
    i = j = 0
    while i < len(old) or j < len(new):
        i0, j0 = i, j
        if i < len(old) and j < len(new) and old[i] != 1 and new[j] != 1:
            left, right = old[i], new[j]
            i, j = i + 1, j + 1
            while left != right:
                if left < right:
                    left, i = left * old[i], i + 1
                else:
                    right, j = right * new[j], j + 1
        elif i < len(old) and old[i] == 1:
            i += 1
        else:
            j += 1
        runs.append((tuple(range(i0, i)), new[j0:j]))
    return runs


def _regroup(
    factor: Factor, groups: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
) -> Factor | None:
    """Reshape a factor as its weight is; `None` where it has only some axes of a merged run."""
    for old, labels, sizes in groups:
        labels_held = [label for label in old if label in factor.labels]
        if old == labels or (old and not labels_held):
            continue
        if len(labels_held) < len(old):
            return None
        if not old:
            continue  # a new axis of length 1, which a factor need not have
        at = min(factor.labels.index(label) for label in old)
        rest = [label for label in factor.labels if label not in old]
        value = factor.to([*rest[:at], *old, *rest[at:]])
        shape = (*value.shape[:at], *sizes, *value.shape[at + len(old) :])
        factor = Factor(value.reshape(shape), (*rest[:at], *labels, *rest[at:]), factor.own)
    return factor


# ---- the forms ---------------------------------------------------------------------------------


def combined(
    name: str, shape: Sequence[int], dtype: Any, coefficients: Any, templates: Any, base: Any = None
) -> StructuredWeight:
    """Return `base + sum_r c_r T_r`.

    Args:
        name: Name of the tensor.
        shape: Its shape.
        dtype: Its dtype.
        coefficients: `(B, R)`.
        templates: `(*shape, R)`, shared by all conditions.
        base: `(*shape)`, shared, or `None`.
    """
    axes = tuple(range(len(shape)))
    term = (Factor(coefficients, (-1,), True), Factor(templates, (*axes, -1), False))
    return _weight(name, shape, dtype, term, base)


def factored(
    name: str,
    shape: Sequence[int],
    dtype: Any,
    u: Any,
    v: Any,
    split: int = 1,
    base: Any = None,
) -> StructuredWeight:
    """Return `base + U V`, the first `split` axes by all others.

    Args:
        name: Name of the tensor.
        shape: Its shape.
        dtype: Its dtype.
        u: `(B, prod(shape[:split]), rank)`.
        v: `(B, rank, prod(shape[split:]))`.
        split: How many axes are the rows.
        base: `(*shape)`, shared, or `None`.
    """
    axes = tuple(range(len(shape)))
    u = u.reshape(u.shape[0], *shape[:split], u.shape[-1])
    v = v.reshape(*v.shape[:-1], *shape[split:])
    term = (Factor(u, (*axes[:split], -1), True), Factor(v, (-1, *axes[split:]), True))
    return _weight(name, shape, dtype, term, base)


def scaled(name: str, base: Any, dtype: Any, factors: Sequence[Any]) -> StructuredWeight:
    """Return `base` times arrays that are constant along some axes.

    Args:
        name: Name of the tensor.
        base: `(*shape)`, shared by all conditions.
        dtype: Dtype of the tensor.
        factors: Arrays `(B, *sizes)` with 1 or the tensor's size along each axis.
    """
    axes = tuple(range(base.ndim))
    term = (Factor(base, axes, False), *(_narrow(factor) for factor in factors))
    return StructuredWeight((term,), name, axes, tuple(base.shape), np.dtype(dtype))


def times(weight: StructuredWeight, numbers: Any, axis: int) -> StructuredWeight:
    """Return a weight with numbers `(B, size)` multiplied in along one axis."""
    factor = Factor(numbers, (weight.axes[axis],), True)
    return replace(weight, terms=tuple((*term, factor) for term in weight.terms))


def shifted(name: str, base: Any, dtype: Any, shift: Any) -> StructuredWeight:
    """Return `base + s`; arguments as of `scaled`, with one array."""
    return _weight(name, base.shape, dtype, (_narrow(shift),), base)


def formed(name: str, value: Any, lead: int = 1) -> StructuredWeight:
    """Return a weight that is there as an array, with `lead` axes of conditions in front."""
    shape = tuple(value.shape[lead:])
    term = (Factor(value, tuple(range(len(shape))), True),)
    return _weight(name, shape, value.dtype, term, None)


def _narrow(value: Any) -> Factor:
    """Return an array `(B, *sizes)` as a factor without its axes of length 1."""
    sizes = value.shape[1:]
    axes = tuple(axis for axis, size in enumerate(sizes) if size != 1)
    return Factor(value.reshape(value.shape[0], *(sizes[axis] for axis in axes)), axes, True)


def _weight(name: str, shape: Sequence[int], dtype: Any, term: Term, base: Any) -> StructuredWeight:
    axes = tuple(range(len(shape)))
    terms = (term,) if base is None else (term, (Factor(base, axes, False),))
    return StructuredWeight(terms, name, axes, tuple(shape), np.dtype(dtype))


@dataclass(frozen=True)
class Joined:
    """Weights side by side along an axis, as cells that join the matrices of their gates.

    Attributes:
        parts: The weights.
        axis: Which axis.
    """

    parts: tuple[StructuredWeight, ...]
    axis: int

    def dense(self) -> Array:
        """Form the weight of one condition."""
        return lax.concatenate([part.dense() for part in self.parts], self.axis)


def inner_labels(weight: StructuredWeight, term: Term) -> set[int]:
    """Return the labels of a term that are summed over."""
    return {label for factor in term for label in factor.labels if label not in weight.axes}


def combination(weight: StructuredWeight, term: Term) -> tuple[Factor, Factor] | None:
    """Return coefficients and templates of a term that combines templates, else `None`."""
    if len(term) != 2:
        return None
    c, t = term if term[0].own else (term[1], term[0])
    plain = c.own and not t.own and set(c.labels) == inner_labels(weight, term)
    return (c, t) if plain and c.labels and set(c.labels) <= set(t.labels) else None
