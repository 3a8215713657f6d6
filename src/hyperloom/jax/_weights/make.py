"""From a plan and its heads to the generated weights that a call runs with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from hyperloom._core.backend import weights
from hyperloom._core.choices.structure import Directed, Product, Scaled, Shifted, Structure, Sum
from hyperloom._core.plan.contraction import contracts
from hyperloom._core.plan.plan import Plan
from hyperloom._core.target.spec import TensorSpec
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.generator import Generator
from hyperloom.jax._generate.heads import Seen
from hyperloom.jax._generate.numbers import scale_and_shift
from hyperloom.jax._generate.sharing import every_id
from hyperloom.jax._generate.table import look_up
from hyperloom.jax._target.arrays import ranks_promoted
from hyperloom.jax._weights.choose import device_class
from hyperloom.jax._weights.weights import (
    StructuredWeight,
    combined,
    factored,
    scaled,
    shifted,
    times,
)

Weights = tuple[dict[str, Any], dict[str, Any]]


@ranks_promoted
def make_weights(
    generator: Generator,
    encoded: Encoded,
    key: Array | None,
    as_objects: bool,
    ways: Mapping[str, str],
) -> Weights:
    """Return what the target runs with on a batch of conditions.

    Args:
        generator: The generator.
        encoded: The conditions, `(B,)`, or one, `()`.
        key: For dropout in the trunk.
        as_objects: Whether to make weight objects, as `worth_objects` says; else dense arrays.
        ways: How layers with some of them are to be evaluated, by name.

    Where rows share ids, each id is generated once.

    Returns:
        Weights with a slice for each condition, `{name: array (B, *shape) or weight object}`, and
        generated tensors that all conditions share, `{name: array (*shape)}`.
    """
    few = every_id(generator, encoded, draws=key is not None)
    if few is not None:
        assert encoded.ids is not None
        weights_of_few, shared = _of_each(generator, few, key, as_objects, ways)
        return {
            name: _look_up(weight, encoded.ids) for name, weight in weights_of_few.items()
        }, shared
    return _of_each(generator, encoded, key, as_objects, ways)


def _of_each(
    generator: Generator,
    encoded: Encoded,
    key: Array | None,
    as_objects: bool,
    ways: Mapping[str, str],
) -> Weights:
    if not as_objects:
        return generator.tensors(encoded, key), {}
    maker = WeightMaker(generator, encoded, key)
    weights = maker.weights()
    for name, way in ways.items():
        if isinstance(weights.get(name), StructuredWeight):  # a vector has one way
            weights[name] = weights[name].forced(way)
    return weights, maker.shared()


def _look_up(weight: Any, ids: Array) -> Any:
    if isinstance(weight, StructuredWeight):
        return weight.look_up(ids)
    return look_up(weight, ids)


def worth_objects(plan: Plan, num: int, rows: int, itemsize: int) -> bool:
    """Whether `num` conditions with about `rows` rows of input each are to run on objects."""
    if num == 1:
        return False
    # With one row each, XLA multiplies the numbers where they are, without cutting them first.
    cut = rows > 1 and _rows_are_fewer(plan, num)
    # Layers choose by their own rows; here they have one each, for which parts are cheapest.
    return cut or contracts(plan, num, 1, itemsize, device_class())


def _rows_are_fewer(plan: Plan, num: int) -> bool:
    """Whether heads have fewer numbers, `(P, F)`, than they give for `num` conditions, `(B, P)`.

    One of the two is cut into tensors; backward, the gradients of the cuts are put together again.
    """
    heads = [h for h in plan.heads if h.linear and not h.embedding]
    return bool(heads) and num > max(map(plan.features, heads))


class WeightMaker(weights.WeightMaker):
    """Makes the weight objects of one call.

    Args:
        generator: The generator.
        encoded: The conditions, with one batch dimension.
        key: For dropout in the trunk.
    """

    def __init__(self, generator: Generator, encoded: Encoded, key: Array | None) -> None:
        super().__init__(generator.plan, *generator.numbers())
        self.heads, self.encoded = generator.heads, encoded
        self.features = generator.features(encoded, key)

    def _head(self, index: int) -> Any:
        return self.heads[self.plan.heads[index].name]

    def slot_features(self, index: int, slot: int) -> Array:
        features, signs = self.features[index], self._head(index).signs
        features = jnp.broadcast_to(features, (*self.encoded.batch, *features.shape[-2:]))
        features = features[..., slot, :]
        return features if signs is None else features * signs[slot].astype(features.dtype)

    def weight_and_bias(self, index: int) -> tuple[Array, Array]:
        head = self._head(index)
        return head.weight[...], head.bias[...]

    def shared_row(self, index: int) -> Array:
        return self._head(index).row[...]

    def numbers(self, index: int) -> Array:
        seen = Seen(self.features.get(index), self.encoded.ids, self.encoded.batch)
        flat = self._head(index).numbers(seen)
        if not self.plan.heads[index].scaled:
            return flat
        return scale_and_shift(flat, self.scales, *self.plan.sections[index])

    def sum(self, tensor: TensorSpec, features: Array, templates: Array, base: Array) -> Any:
        name, shape, dtype = tensor.name, tensor.shape, tensor.dtype
        if len(shape) < 2:
            return self.formed(tensor, self.product(features, templates, base.reshape(-1)))
        return combined(name, shape, dtype, features, templates.reshape(*shape, -1), base)

    def structured(
        self,
        structure: Structure,
        tensor: TensorSpec,
        parts: tuple[Array, ...],
        base: Array | None,
        bank: Array | None,
    ) -> StructuredWeight | None:
        """Return the weight that a structure has; `None` where the tensor is to be formed."""
        name, shape, dtype = tensor.name, tensor.shape, tensor.dtype
        match structure:
            case Product(factor=factor, split=split):
                u = parts[0] if factor == 1.0 else factor * parts[0]
                return factored(name, shape, dtype, u, parts[1], split, base)
            case Directed() if base is not None and len(tensor.out_axes) == 1:
                return _directed(structure, tensor, parts, base)
            case Sum() if bank is not None:
                coefficients = parts[0].reshape(parts[0].shape[0], -1)
                return combined(name, shape, dtype, coefficients, jnp.moveaxis(bank, 0, -1), base)
            case Shifted() if base is not None:
                return shifted(name, base, dtype, parts[0])
            case Scaled() if base is not None:
                return scaled(name, base, dtype, parts)
            case _:
                return None

    def formed(self, tensor: TensorSpec, value: Array) -> Array:
        return self.cast(value.reshape(value.shape[0], *tensor.shape), tensor)

    def product(self, features: Array, rows: Array, bias: Array) -> Array:
        return features @ rows.T + bias

    def split(self, array: Array, sizes: Sequence[int], axis: int) -> Sequence[Array]:
        return jnp.split(array, np.cumsum(sizes)[:-1], axis=axis)

    def permute(self, array: Array, axes: tuple[int, ...]) -> Array:
        return jnp.transpose(array, axes)

    def cast(self, value: Array, tensor: TensorSpec) -> Array:
        return value.astype(tensor.dtype)


def _directed(
    structure: Directed, tensor: TensorSpec, parts: tuple[Array, ...], base: Array
) -> StructuredWeight | None:
    """Return the weight of DoRA; `None` where its outputs are neither its rows nor its columns."""
    u, v, g = parts
    axis = tensor.out_axes[0]
    if axis == 0:
        scale = structure.scale((u, v, g), base)
    elif tensor.outputs_last:
        scale = structure.scale((v.mT, u.mT, g), base.reshape(-1, tensor.shape[-1]).T)
    else:
        return None
    u = structure.factor * u
    change = factored(tensor.name, tensor.shape, tensor.dtype, u, v, structure.split, base)
    return times(change, scale, axis)
