"""From a plan and what its heads hold to the weights of one call: which rows give which part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from hyperloom._core.backend.walk import bank_of, base_of
from hyperloom._core.choices.structure import Structure
from hyperloom._core.pieces import Piece
from hyperloom._core.plan.plan import NO_PIECE, Entry, Plan
from hyperloom._core.target.spec import TensorSpec


class WeightMaker(ABC):
    """Makes the weights of one call. A backend says what they are of its arrays.

    Args:
        plan: The plan.
        scales: `(num_pieces, 2)`, scale and shift of each piece; `None` if no head has any.
        bases: The tensors that forms with a base change.
        banks: The plan's banks.
    """

    def __init__(
        self, plan: Plan, scales: Any, bases: Mapping[str, Any], banks: Sequence[Any]
    ) -> None:
        self.plan, self.scales, self.bases, self.banks = plan, scales, bases, banks
        self._parts: dict[int, dict[int, Any]] = {}
        self._cuts: dict[int, tuple[Sequence[Any], Sequence[Any]]] = {}

    def weights(self) -> dict[str, Any]:
        """Return a weight for every tensor that differs by condition."""
        shared = self.plan.shared
        names = [name for name in self.plan.rows_by_name if name not in shared]
        return {name: self.weight(name) for name in names}

    def weight(self, name: str) -> Any:
        """Return the weight of one tensor that differs by condition."""
        return self._weight(*self.plan.rows_by_name[name])

    def shared(self) -> dict[str, Any]:
        """Return the learned tensors that all conditions share; they have no batch dimension."""
        tensors = {}
        for entry in self.plan.entries:
            if entry.tensor in self.plan.shared:
                piece = entry.pieces[0]
                numbers = self.shared_row(piece.head)[piece.start : piece.start + piece.span]
                tensor = self.plan.spec[entry.tensor]
                tensors[entry.tensor] = self.cast(piece.arrange(numbers, self.permute), tensor)
        return tensors

    def _weight(self, entry: Entry, rows: range) -> Any:
        tensor, structure = self.plan.spec[entry.tensor], self.plan.structures[entry.tensor]
        base, bank = base_of(entry, self.bases), bank_of(entry, self.banks)
        if entry.tensor in self.plan.sums:
            features, templates, bias = self._rows(entry.pieces[0], rows[0])
            shared = bias.reshape(tensor.shape)
            return self.sum(tensor, features, templates, shared if base is None else shared + base)
        pieces = zip(entry.pieces, rows, strict=True)
        parts = tuple([self._part(piece, row, structure.plus) for piece, row in pieces])
        # A vector is as cheap formed.
        value = None
        if len(tensor.shape) >= 2:
            value = self.structured(structure, tensor, parts, base, bank)
        if value is None:
            value = self.formed(tensor, structure.dense(parts, base, bank, tensor.shape))
        return value

    def _rows(self, piece: Piece, row: int) -> tuple[Any, Any, Any]:
        """Return features `(B, F)`, rows `(numel, F)` and bias `(numel,)` that give a part."""
        place = self.plan.row_ranges[row]
        assert place is not None
        slot, first, span = place
        features = self.slot_features(piece.head, slot)
        weight, bias = self._rows_of(piece.head, first, span)
        if piece.cut:
            weight, bias = piece.kept_rows(weight), piece.kept_rows(bias)
        if self.plan.heads[piece.head].scaled:
            scale, shift = self.scales[row, 0], self.scales[row, 1]
            features, bias = features * scale, bias * scale + shift
        return features, weight, bias

    def _rows_of(self, index: int, row: int, numel: int) -> tuple[Any, Any]:
        """Return rows of a linear head's weight and bias.

        All rows are cut at once where that can be: the backward pass of one split is one
        concatenation, where every slice would fill a gradient of the whole head.
        """
        cuts = self.plan.row_cuts[index]
        if cuts is None:
            weight, bias = self.weight_and_bias(index)
            return weight[row : row + numel], bias[row : row + numel]
        if index not in self._cuts:
            sizes = [length for _, length in cuts]
            weight, bias = self.weight_and_bias(index)
            self._cuts[index] = (self.split(weight, sizes, 0), self.split(bias, sizes, 0))
        weights, biases = self._cuts[index]
        place = cuts[row, numel]
        return weights[place], biases[place]

    def _part(self, piece: Piece, row: int, plus: float) -> Any:
        """Return a part `(B, *shape)` with a constant added, dense."""
        if self.plan.row_ranges[row] is not None:
            features, weight, bias = self._rows(piece, row)
            block = self.product(features, weight, bias + plus if plus else bias)
            return block.reshape((block.shape[0], *piece.shape))
        if piece.head not in self._parts:
            self._parts[piece.head] = self._cut(piece.head)
        part = self._parts[piece.head][row]
        return part + plus if plus else part

    def _cut(self, index: int) -> dict[int, Any]:
        """Run a head as a whole and cut its output."""
        rows, sizes = self.plan.sections[index]
        cuts = zip(rows, self.split(self.numbers(index), sizes, -1), strict=False)
        pieces = {row: part for row, part in cuts if row != NO_PIECE}
        return {r: self.plan.pieces[r].arrange(part, self.permute) for r, part in pieces.items()}

    # ---- what a backend says -----------------------------------------------------------------

    @abstractmethod
    def slot_features(self, index: int, slot: int) -> Any:
        """Return what one slot of a linear head sees, under its signs: `(B, F)`."""

    @abstractmethod
    def weight_and_bias(self, index: int) -> tuple[Any, Any]:
        """Return weight `(S, F)` and bias `(S,)` of a linear head."""

    @abstractmethod
    def shared_row(self, index: int) -> Any:
        """Return the numbers `(S,)` of a head that all conditions share."""

    @abstractmethod
    def numbers(self, index: int) -> Any:
        """Return a head's numbers `(B, num_slots * slot_size)`, scales and shifts in."""

    @abstractmethod
    def sum(self, tensor: TensorSpec, features: Any, templates: Any, base: Any) -> Any:
        """Return the weight `base + sum_f features_f templates_f`, templates `(numel, F)`."""

    @abstractmethod
    def structured(
        self, structure: Structure, tensor: TensorSpec, parts: Any, base: Any, bank: Any
    ) -> Any:
        """Return the weight that a structure has; `None` where the tensor is to be formed.

        Args:
            structure: Of the tensor.
            tensor: A tensor with two axes or more.
            parts: Its parts, `(B, *part shape)`.
            base: The tensor that is changed, or `None`.
            bank: The arrays that are combined, or `None`.
        """

    @abstractmethod
    def formed(self, tensor: TensorSpec, value: Any) -> Any:
        """Return the weight of a tensor that is there, `(B, *shape)`."""

    @abstractmethod
    def product(self, features: Any, rows: Any, bias: Any) -> Any:
        """Return `features rows^T + bias`, `(B, numel)`."""

    @abstractmethod
    def split(self, array: Any, sizes: Sequence[int], axis: int) -> Sequence[Any]:
        """Cut an array along an axis into ranges of given sizes."""

    @abstractmethod
    def permute(self, array: Any, axes: tuple[int, ...]) -> Any:
        """Bring an array's axes into another order."""

    @abstractmethod
    def cast(self, value: Any, tensor: TensorSpec) -> Any:
        """Return a value in the dtype that the target wants of a tensor."""
