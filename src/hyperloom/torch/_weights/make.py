"""From a plan and its heads to generated weights as objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom._core.choices.forms import (
    Delta,
    LoRA,
    LowRank,
    RankOne,
    Scale,
    Shift,
    Templates,
    Whole,
)
from hyperloom._core.choices.layouts import Piece
from hyperloom._core.plan.contraction import in_one_slot, is_shared
from hyperloom._core.plan.plan import Entry, Plan
from hyperloom.torch._generate.conditions import Encoded
from hyperloom.torch._generate.heads import GivenHead, LinearHead, TableHead
from hyperloom.torch._generate.numbers import base_of, given_numbers, linear_numbers, slot_features
from hyperloom.torch._weights.weights import (
    Dense,
    LowRankWeight,
    ScaledWeight,
    ShiftedWeight,
    Sum,
    Weight,
)


class Loom:
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
        shape = torch.Size(self.plan.spec[entry.tensor].shape)
        name, num, form = entry.tensor, self.num, entry.form
        base = base_of(entry, self.bases, self.banks)
        if isinstance(form, (Whole, Delta)) and self._in_one_slot(entry.pieces[0]):
            made = self._sum(name, shape, num, entry.pieces[0], rows[0], base)
            return (
                made if len(shape) >= 2 else Dense(name, shape, num, self._cast(made.dense(), name))
            )
        out_axis = self.plan.spec[name].out_axis
        scaled = isinstance(form, (Scale, RankOne)) and len(shape) >= 2 and out_axis in (0, 1)
        plus = 1.0 if scaled else 0.0
        parts = [self._part(p, i, plus) for p, i in zip(entry.pieces, rows, strict=True)]
        made = _structured(form, name, shape, num, parts, base, out_axis)
        if made is None:
            value = form.assemble(tuple(parts), base, tuple(shape))
            made = Dense(name, shape, num, self._cast(value, name))
        return made

    def _cast(self, value: Tensor, name: str) -> Tensor:
        return value if value.dtype == self.dtypes[name] else value.to(self.dtypes[name])

    def _in_one_slot(self, piece: Piece) -> bool:
        made_by_rows = isinstance(self.heads[self.plan.heads[piece.head].name], LinearHead)
        return made_by_rows and in_one_slot(self.plan, piece)

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
    ) -> Sum:
        features, templates, bias = self._scaled(piece, row)
        shared = bias.view(shape)
        return Sum(name, shape, num, features, templates, shared if base is None else shared + base)

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
        if self._in_one_slot(piece):
            features, weight, bias = self._scaled(piece, row)
            made = F.linear(features, weight, bias + plus if plus else bias)
            return made.reshape(-1, *piece.shape)
        if piece.head not in self.parts:
            self._cut(piece.head)
        part = self.parts[piece.head][row]
        return part + plus if plus else part

    def _cut(self, index: int) -> None:
        """Run a head as a whole and cut its output."""
        head = self.plan.heads[index]
        flat = self._raw(index, self.heads[head.name])
        rows, sizes = self.plan.sections[index]
        cuts = zip(rows, flat.split(sizes, -1), strict=False)
        pieces = self.plan.pieces
        self.parts[index] = {r: pieces[r].arrange(part, torch.permute) for r, part in cuts}

    def _raw(self, index: int, module: nn.Module) -> Tensor:
        """Return a head's numbers `(B, num_slots * slot_size)`, scales and shifts in."""
        if isinstance(module, LinearHead):
            return linear_numbers(self.plan, index, module, self.features[index], self.scales)
        if isinstance(module, GivenHead):
            return given_numbers(self.plan, index, self.features[index], self.scales)
        if isinstance(module, TableHead):
            assert self.encoded.ids is not None
            return self._rows(module.table.look_up(self.encoded.ids))
        row: Any = module.row
        return row.expand(self.num, -1)


def _structured(
    form: Any,
    name: str,
    shape: torch.Size,
    num: int,
    parts: list[Tensor],
    base: Tensor | None,
    out_axis: int | tuple[int, ...] | None,
) -> Weight | None:
    """Return the weight object for a form that has one, for matrices and kernels."""
    if len(shape) < 2:
        return None
    if isinstance(form, LoRA):
        return LowRankWeight(name, shape, num, parts[0], parts[1], form.factor, base)
    if isinstance(form, LowRank):
        return LowRankWeight(name, shape, num, parts[0], parts[1])
    if isinstance(form, Templates):
        assert base is not None
        coefficients = parts[0].flatten(1)
        return Sum(name, shape, num, coefficients, base.flatten(1).mT)
    if out_axis not in (0, 1) or base is None:
        return None
    flat = [part.flatten(1) for part in parts]
    if isinstance(form, Shift):
        whole = math.prod(shape[1:]) == shape[1] and out_axis == 0
        return ShiftedWeight(name, shape, num, base, flat[0]) if whole else None
    if isinstance(form, RankOne):
        first, second = flat if out_axis == 0 else reversed(flat)
        return ScaledWeight(name, shape, num, base, first, second)
    if isinstance(form, Scale):
        rows = (out_axis == 0) != form.inputs
        return ScaledWeight(name, shape, num, base, *((flat[0], None) if rows else (None, flat[0])))
    return None
