"""From a plan and its heads to the generated weights that a call runs with."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from hyperloom._core.backend.walk import bank_of, base_of
from hyperloom._core.choices.structure import Product, Scaled, Shifted, Structure, Sum
from hyperloom._core.plan.contraction import contracts, from_rows, is_shared, sum_of_rows
from hyperloom._core.plan.plan import Entry, Plan
from hyperloom._core.records import Piece
from hyperloom._core.target.spec import TensorSpec
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.generator import Generator
from hyperloom.jax._generate.heads import Seen
from hyperloom.jax._generate.numbers import scale_and_shift
from hyperloom.jax._generate.sharing import every_id
from hyperloom.jax._generate.table import look_up
from hyperloom.jax._weights.choose import device_class
from hyperloom.jax._weights.weights import StructuredWeight, combined, factored, scaled, shifted

Weights = tuple[dict[str, Any], dict[str, Any]]


def make_weights(
    generator: Generator, encoded: Encoded, key: Array | None, as_objects: bool
) -> Weights:
    """Return what the target runs with on a batch of conditions.

    Args:
        generator: The generator.
        encoded: The conditions, `(B,)`, or one, `()`.
        key: For dropout in the trunk.
        as_objects: Whether to make weight objects, as `worth_objects` says; else dense arrays.

    Where rows share ids, each id is generated once.

    Returns:
        Weights with a slice for each condition, `{name: array (B, *shape) or weight object}`, and
        generated tensors that all conditions share, `{name: array (*shape)}`.
    """
    few = every_id(generator, encoded, draws=key is not None)
    if few is not None:
        assert encoded.ids is not None
        weights, shared = _of_each(generator, few, key, as_objects)
        return {name: _look_up(weight, encoded.ids) for name, weight in weights.items()}, shared
    return _of_each(generator, encoded, key, as_objects)


def _of_each(
    generator: Generator, encoded: Encoded, key: Array | None, as_objects: bool
) -> Weights:
    if not as_objects:
        return generator.tensors(encoded, key), {}
    maker = WeightMaker(generator, encoded, key)
    return maker.weights(), maker.shared()


def _look_up(weight: Any, ids: Array) -> Any:
    if isinstance(weight, StructuredWeight):
        return weight.look_up(ids)
    return look_up(weight, ids)


def worth_objects(plan: Plan, num: int, rows: int, itemsize: int) -> bool:
    """Whether `num` conditions with about `rows` rows of input each are to run on objects."""
    if num == 1:
        return False
    return _rows_are_fewer(plan, num) or contracts(plan, num, rows, itemsize, device_class())


def _rows_are_fewer(plan: Plan, num: int) -> bool:
    """Whether heads have fewer numbers, `(P, F)`, than they give for `num` conditions, `(B, P)`.

    One of the two is cut into tensors; backward, the gradients of the cuts are put together again.
    """
    heads = [h for h in plan.heads if h.linear and not h.embedding]
    return bool(heads) and num > max(map(plan.features, heads))


class WeightMaker:
    """Makes the weight objects of one call.

    Args:
        generator: The generator.
        encoded: The conditions, with one batch dimension.
        key: For dropout in the trunk.
    """

    def __init__(self, generator: Generator, encoded: Encoded, key: Array | None) -> None:
        self.plan, self.heads = generator.plan, generator.heads
        self.scales, self.bases, self.banks = generator.numbers()
        self.encoded = encoded
        self.features = generator.features(encoded, key)
        self.parts: dict[int, dict[int, Array]] = {}
        self.cuts: dict[int, tuple[list[Array], list[Array]]] = {}

    def weights(self) -> dict[str, Any]:
        """Return a weight for every tensor that differs by condition."""
        row, made = 0, {}
        for entry in self.plan.entries:
            rows = range(row, row + len(entry.pieces))
            row = rows.stop
            if not is_shared(self.plan, entry):
                made[entry.tensor] = self._weight(entry, rows)
        return made

    def shared(self) -> dict[str, Array]:
        """Return the learned tensors that all conditions share."""
        made = {}
        for entry in self.plan.entries:
            if is_shared(self.plan, entry):
                piece = entry.pieces[0]
                head: Any = self.heads[self.plan.heads[piece.head].name]
                value = piece.read(head.row[...][None], jnp.transpose)
                made[entry.tensor] = value.astype(self.plan.spec[entry.tensor].dtype)
        return made

    def _weight(self, entry: Entry, rows: range) -> Any:
        tensor, structure = self.plan.spec[entry.tensor], self.plan.structures[entry.tensor]
        base, bank = base_of(entry, self.bases), bank_of(entry, self.banks)
        if len(tensor.shape) >= 2 and sum_of_rows(self.plan, entry):
            features, weight, bias = self._scaled(entry.pieces[0], rows[0])
            shared = bias.reshape(tensor.shape)
            shared = shared if base is None else shared + base
            templates = weight.reshape(*tensor.shape, -1)
            return combined(tensor.name, tensor.shape, tensor.dtype, features, templates, shared)
        parts = tuple(self._part(piece, i) for piece, i in zip(entry.pieces, rows, strict=True))
        if structure.plus:
            parts = tuple(part + structure.plus for part in parts)
        made = structured(structure, tensor, parts, base, bank)
        if made is None:
            made = structure.dense(parts, base, bank, tensor.shape).astype(tensor.dtype)
        return made

    def _linear(self, piece: Piece) -> tuple[Array, Array, Array]:
        """Return features `(B, F)`, rows `(numel, F)` and bias `(numel,)` that give a part."""
        head = self.plan.heads[piece.head]
        module: Any = self.heads[head.name]
        slot, row = divmod(piece.start, head.slot_size)
        features = self.features[piece.head]
        features = jnp.broadcast_to(features, (*self.encoded.batch, *features.shape[-2:]))
        features = features[..., slot, :]
        if module.signs is not None:
            features = features * module.signs[slot].astype(features.dtype)
        weight, bias = self._rows_of(piece.head, module, row, piece.numel)
        return features, weight, bias

    def _rows_of(self, index: int, module: Any, row: int, numel: int) -> tuple[Array, Array]:
        """Return rows of a head's weight and bias.

        All rows are cut at once where that can be: the backward pass of one split is one
        concatenation, where every slice would fill a gradient of the whole head.
        """
        cuts = self.plan.row_cuts[index]
        if cuts is None:
            return module.weight[...][row : row + numel], module.bias[...][row : row + numel]
        if index not in self.cuts:
            ends = np.cumsum([length for _, length in cuts])[:-1]
            both = [jnp.split(array[...], ends) for array in (module.weight, module.bias)]
            self.cuts[index] = (both[0], both[1])
        weights, biases = self.cuts[index]
        place = cuts[row, numel]
        return weights[place], biases[place]

    def _scaled(self, piece: Piece, row: int) -> tuple[Array, Array, Array]:
        """Return features, rows and bias that give a part with its scale and shift in."""
        features, weight, bias = self._linear(piece)
        if self.plan.heads[piece.head].scaled:
            assert self.scales is not None
            features = features * self.scales[row, 0]
            bias = bias * self.scales[row, 0] + self.scales[row, 1]
        return features, weight, bias

    def _part(self, piece: Piece, row: int) -> Array:
        """Return a part `(B, *shape)`, dense."""
        if from_rows(self.plan, piece):
            features, weight, bias = self._scaled(piece, row)
            return (features @ weight.T + bias).reshape(features.shape[0], *piece.shape)
        if piece.head not in self.parts:
            self._cut(piece.head)
        return self.parts[piece.head][row]

    def _cut(self, index: int) -> None:
        """Run a head as a whole and cut its output."""
        head = self.plan.heads[index]
        seen = Seen(self.features.get(index), self.encoded.ids, self.encoded.batch)
        flat = self.heads[head.name].numbers(seen)
        rows, sizes = self.plan.sections[index]
        if head.scaled:
            assert self.scales is not None
            flat = scale_and_shift(flat, self.scales, rows, sizes)
        cuts = jnp.split(flat, np.cumsum(sizes)[:-1], axis=-1)
        pieces = self.plan.pieces
        self.parts[index] = {
            r: pieces[r].arrange(part, jnp.transpose) for r, part in zip(rows, cuts, strict=False)
        }


def structured(
    structure: Structure,
    tensor: TensorSpec,
    parts: tuple[Array, ...],
    base: Array | None,
    bank: Array | None,
) -> StructuredWeight | None:
    """Return the weight that a structure has, `None` where the tensor is to be formed.

    Matrices and kernels have one; a vector is as cheap formed.
    """
    name, shape, dtype = tensor.name, tensor.shape, tensor.dtype
    if len(shape) < 2:
        return None
    match structure:
        case Product(factor=factor, split=split):
            u = parts[0] if factor == 1.0 else factor * parts[0]
            return factored(name, shape, dtype, u, parts[1], split, base)
        case Sum() if bank is not None:
            coefficients = parts[0].reshape(parts[0].shape[0], math.prod(parts[0].shape[1:]))
            return combined(name, shape, dtype, coefficients, jnp.moveaxis(bank, 0, -1), base)
        case Shifted() if base is not None:
            return shifted(name, base, dtype, parts[0])
        case Scaled() if base is not None:
            return scaled(name, base, dtype, parts)
        case _:
            return None
