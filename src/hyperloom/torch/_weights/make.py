"""From a plan and its heads to generated weights as objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom._core.backend.walk import bank_of, base_of
from hyperloom._core.choices.structure import Product, Scaled, Shifted, Structure, Sum
from hyperloom._core.plan.contraction import from_rows, is_shared, sum_of_rows
from hyperloom._core.plan.plan import Entry, Plan
from hyperloom._core.records import Piece
from hyperloom.torch._generate.conditions import Encoded
from hyperloom.torch._generate.generator import Generator, fixed_of
from hyperloom.torch._generate.heads import Seen
from hyperloom.torch._generate.numbers import slot_features
from hyperloom.torch._weights.weights import (
    Dense,
    LowRankWeight,
    ScaledWeight,
    ShiftedWeight,
    SumWeight,
    Weight,
)


def weights_of(
    generator: Generator, encoded: Encoded, index: Tensor | None, record: Any = None
) -> tuple[dict[str, Weight], dict[str, Tensor]]:
    """Return a weight object for each generated tensor, and the learned tensors that are shared.

    Args:
        generator: What generates.
        encoded: The conditions, with one batch dimension; where rows share conditions, each once.
        index: Which of them each row has, `(B,)`, or `None` where row and condition are one.
        record: Where weights note what was chosen, or `None`.
    """
    modules: Any = generator._modules
    parts = (modules["trunks"], modules["heads"], *fixed_of(generator))
    maker = WeightMaker(generator.plan, *parts, generator.dtypes, encoded, index, record)
    return maker.weights(), maker.shared()


class WeightMaker:
    """Makes the weight objects of one call.

    Args:
        plan: The plan.
        trunks: Its trunks.
        heads: Its heads.
        scales: `(num_pieces, 2)` or `None`.
        bases: The tensors that forms with a base change.
        banks: The plan's banks.
        dtypes: Wanted dtype of each tensor.
        encoded: The conditions, with one batch dimension; where rows share conditions, each once.
        index: Which of them each row has, `(B,)`, or `None` where row and condition are one.
        record: Where weights note what was chosen, or `None`.
    """

    def __init__(
        self,
        plan: Plan,
        trunks: nn.ModuleList,
        heads: nn.ModuleDict,
        scales: Tensor | None,
        bases: Mapping[str, Tensor],
        banks: Sequence[Tensor],
        dtypes: Mapping[str, torch.dtype],
        encoded: Encoded,
        index: Tensor | None = None,
        record: Any = None,
    ) -> None:
        self.plan, self.heads, self.scales = plan, heads, scales
        self.bases, self.banks, self.dtypes = bases, banks, dtypes
        self.encoded, self.index, self.record = encoded, index, record
        self.num = len(encoded.vector if index is None else index)
        self.ids = None if encoded.ids is None else self._rows(encoded.ids)
        self.features = {
            i: self._rows(f) for i, f in slot_features(plan, trunks, heads, encoded).items()
        }
        self.parts: dict[int, dict[int, Tensor]] = {}
        self.rows: dict[int, tuple[Any, Any]] = {}

    def weights(self) -> dict[str, Weight]:
        """Return a weight object for every generated tensor."""
        row, made = 0, {}
        for entry in self.plan.entries:
            rows = range(row, row + len(entry.pieces))
            row = rows.stop
            if not is_shared(self.plan, entry):
                made[entry.tensor] = self._weight(entry, rows)
                made[entry.tensor].record = self.record
        return made

    def shared(self) -> dict[str, Tensor]:
        """Return the learned tensors that all conditions share; they need no batch dimension."""
        made = {}
        for entry in self.plan.entries:
            if not is_shared(self.plan, entry):
                continue
            piece = entry.pieces[0]
            head: Any = self.heads[self.plan.heads[piece.head].name]
            value = piece.read(head.row.unsqueeze(0), torch.permute)
            made[entry.tensor] = value.to(self.dtypes[entry.tensor])
        return made

    def _weight(self, entry: Entry, rows: range) -> Weight:
        name, num = entry.tensor, self.num
        shape = torch.Size(self.plan.spec[name].shape)
        base, bank = base_of(entry, self.bases), bank_of(entry, self.banks)
        if sum_of_rows(self.plan, entry):
            made = self._sum(name, shape, num, entry.pieces[0], rows[0], base)
            return (
                made if len(shape) >= 2 else Dense(name, shape, num, self._cast(made.dense(), name))
            )
        structure = self.plan.structures[name]
        parts = tuple(
            self._part(p, i, structure.plus) for p, i in zip(entry.pieces, rows, strict=True)
        )
        made = structured(structure, name, shape, num, parts, base, bank)
        if made is None:
            value = structure.dense(parts, base, bank, tuple(shape))
            made = Dense(name, shape, num, self._cast(value, name))
        return made

    def _cast(self, value: Tensor, name: str) -> Tensor:
        return value if value.dtype == self.dtypes[name] else value.to(self.dtypes[name])

    def _rows(self, tensor: Tensor) -> Tensor:
        """Give each row the slice of its condition."""
        return tensor if self.index is None else tensor.index_select(0, self.index)

    def _linear(self, piece: Piece) -> tuple[Tensor, Tensor, Tensor]:
        """Return features `(B, F)`, rows `(numel, F)` and bias `(numel,)` that give a part."""
        head = self.plan.heads[piece.head]
        module: Any = self.heads[head.name]
        slot, row = divmod(piece.start, head.slot_size)
        features = self.features[piece.head]
        if head.embedding:
            features = features[..., slot, :]
        if head.signs:
            features = features * module.signs[slot]
        weight, bias = self._rows_of(piece.head, module, row, piece.numel)
        return features, weight, bias

    def _rows_of(self, index: int, module: Any, row: int, numel: int) -> tuple[Tensor, Tensor]:
        """Return rows of a head's weight and bias.

        All rows are cut at once where that can be: the backward pass of one split is one
        concatenation, where every slice would fill a gradient of the whole head.
        """
        cuts = self.plan.row_cuts[index]
        if cuts is None:
            return module.weight[row : row + numel], module.bias[row : row + numel]
        if index not in self.rows:
            sizes = [length for _, length in cuts]
            self.rows[index] = (module.weight.split(sizes), module.bias.split(sizes))
        weights, biases = self.rows[index]
        place = cuts[row, numel]
        return weights[place], biases[place]

    def _sum(
        self, name: str, shape: torch.Size, num: int, piece: Piece, row: int, base: Tensor | None
    ) -> SumWeight:
        features, templates, bias = self._scaled(piece, row)
        shared = bias.view(shape)
        return SumWeight(
            name, shape, num, features, templates, shared if base is None else shared + base
        )

    def _scaled(self, piece: Piece, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, rows and bias that give a part with its scale and shift in."""
        features, weight, bias = self._linear(piece)
        if self.plan.heads[piece.head].scaled:
            assert self.scales is not None
            features = features * self.scales[row, 0]
            bias = bias * self.scales[row, 0] + self.scales[row, 1]
        return features, weight, bias

    def _part(self, piece: Piece, row: int, plus: float) -> Tensor:
        """Return a part `(B, *shape)` with a constant added, dense."""
        if from_rows(self.plan, piece):
            features, weight, bias = self._scaled(piece, row)
            made = F.linear(features, weight, bias + plus if plus else bias)
            return made.reshape(-1, *piece.shape)
        if piece.head not in self.parts:
            self._cut(piece.head)
        part = self.parts[piece.head][row]
        return part + plus if plus else part

    def _cut(self, index: int) -> None:
        """Run a head as a whole and cut its output."""
        module: Any = self.heads[self.plan.heads[index].name]
        flat = module.numbers(Seen(self.features.get(index), self.ids, (self.num,), self.scales))
        rows, sizes = self.plan.sections[index]
        cuts = zip(rows, flat.split(sizes, -1), strict=False)
        pieces = self.plan.pieces
        self.parts[index] = {r: pieces[r].arrange(part, torch.permute) for r, part in cuts}


def structured(
    structure: Structure,
    name: str,
    shape: torch.Size,
    num: int,
    parts: tuple[Tensor, ...],
    base: Tensor | None,
    bank: Tensor | None,
) -> Weight | None:
    """Return the weight that a structure has; `None` where the tensor is to be formed.

    Matrices and kernels have one, whose parts lie along the axes that layers have: factors along
    the first two, a product whose rows are the first.
    """
    if len(shape) < 2:
        return None
    match structure:
        case Product(factor=factor) if parts[0].shape[-2] == shape[0]:
            return LowRankWeight(name, shape, num, parts[0], parts[1], factor, base)
        case Sum() if bank is not None:
            return SumWeight(name, shape, num, parts[0].flatten(1), bank.flatten(1).mT, base)
        case Shifted() if base is not None and parts[0].shape[1:] == (shape[0], 1):
            return ShiftedWeight(name, shape, num, base, parts[0].flatten(1))
        case Scaled() if base is not None:
            found = _by_axis(parts, shape)
            return None if found is None else ScaledWeight(name, shape, num, base, *found)
        case _:
            return None


def _by_axis(
    parts: tuple[Tensor, ...], shape: torch.Size
) -> tuple[Tensor | None, Tensor | None] | None:
    """Return the factors `(B, n)` along the first and the second axis; `None` for any others."""
    found: list[Tensor | None] = [None, None]
    for part in parts:
        long = [axis for axis, size in enumerate(part.shape[1:]) if size != 1]
        # One number for all of the tensor goes with its first axis.
        axis = long[0] if long else 0
        if len(long) > 1 or axis > 1 or found[axis] is not None:
            return None
        found[axis] = part.flatten(1).expand(-1, shape[axis])
    return found[0], found[1]
