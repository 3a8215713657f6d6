"""From a plan and its heads to generated weights as objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom._factored import LowRank, Product, RankOne, Scale, Shift, Templates
from hyperloom._form import Delta, Whole
from hyperloom._layout import Piece, Source
from hyperloom._plan import Entry, Plan
from hyperloom.torch._conditions import Encoded
from hyperloom.torch._generate import base_of, scale_and_shift, slot_features
from hyperloom.torch._heads import LinearHead, TableHead
from hyperloom.torch._structured import (
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
        self.raw: dict[int, Tensor] = {}
        self.rows: dict[int, tuple[Any, Any]] = {}

    def weights(self) -> dict[str, Weight]:
        """Return a weight object for every generated tensor."""
        row, made = 0, {}
        for entry in self.plan.entries:
            rows = range(row, row + len(entry.pieces))
            row = rows.stop
            if not self._is_shared(entry):
                made[entry.tensor] = self._weight(entry, rows)
                made[entry.tensor].record = self.record
        return made

    def shared(self) -> dict[str, Tensor]:
        """Return the learned tensors that all conditions share; they need no batch dimension."""
        made = {}
        for entry in filter(self._is_shared, self.plan.entries):
            piece = entry.pieces[0]
            head: Any = self.heads[self.plan.heads[piece.head].name]
            value = piece.read(head.row.unsqueeze(0), torch.permute)
            made[entry.tensor] = value.to(self.dtypes[entry.tensor])
        return made

    def _is_shared(self, entry: Entry) -> bool:
        sources = {self.plan.heads[piece.head].source for piece in entry.pieces}
        return sources == {Source.SHARED} and isinstance(entry.form, Whole)

    def _weight(self, entry: Entry, rows: range) -> Weight:
        shape = torch.Size(self.plan.spec[entry.tensor].shape)
        name, num, form = entry.tensor, self.num, entry.form
        base = base_of(entry, self.bases, self.banks)
        if isinstance(form, (Whole, Delta)) and len(shape) >= 2:
            piece = entry.pieces[0]
            if self._in_one_slot(piece):
                return self._sum(name, shape, num, piece, rows[0], base)
        parts = [self._part(p, i) for p, i in zip(entry.pieces, rows, strict=True)]
        made = _structured(form, name, shape, num, parts, base, self.plan.spec[name].out_axis)
        if made is None:
            value = form.assemble(tuple(parts), base, tuple(shape))
            made = Dense(name, shape, num, value.to(self.dtypes[name]))
        return made

    def _in_one_slot(self, piece: Piece) -> bool:
        return piece.head in self.features and in_one_slot(self.plan, piece)

    def _rows(self, tensor: Tensor) -> Tensor:
        """Give each row the slice of its condition."""
        return tensor if self.index is None else tensor.index_select(0, self.index)

    def _linear(self, piece: Piece) -> tuple[Tensor, Tensor, Tensor]:
        """Return features `(B, F)`, rows `(numel, F)` and bias `(numel,)` that give a part."""
        head = self.plan.heads[piece.head]
        module: Any = self.heads[head.name]
        slot, row = divmod(piece.start, head.slot_size)
        features = self.features[piece.head][..., slot, :]
        if module.signs is not None:
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
        features, templates, bias = self._linear(piece)
        if self.plan.heads[piece.head].scaled:
            assert self.scales is not None
            features = features * self.scales[row, 0]
            bias = bias * self.scales[row, 0] + self.scales[row, 1]
        shared = bias.view(shape)
        return Sum(name, shape, num, features, templates, shared if base is None else shared + base)

    def _part(self, piece: Piece, row: int) -> Tensor:
        """Return a part `(B, *shape)`, dense."""
        head = self.plan.heads[piece.head]
        module = self.heads[head.name]
        if self._in_one_slot(piece):
            part = F.linear(*self._linear(piece)).reshape(-1, *piece.shape)
        else:
            part = piece.read(self._raw(piece.head, module), torch.permute)
        if head.scaled:
            assert self.scales is not None
            part = scale_and_shift(part, self.scales[row])
        return part

    def _raw(self, index: int, module: nn.Module) -> Tensor:
        if index not in self.raw:
            if isinstance(module, LinearHead):
                self.raw[index] = module(self.features[index])
            elif isinstance(module, TableHead):
                assert self.encoded.ids is not None
                rows = self._rows(module.table.look_up(self.encoded.ids))
                self.raw[index] = rows.unsqueeze(-2)
            else:
                row: Any = module.row
                self.raw[index] = row.expand(self.num, 1, -1)
        return self.raw[index]


def in_one_slot(plan: Plan, piece: Piece) -> bool:
    """Whether a part's numbers come, in order, from one run of its head."""
    size = plan.heads[piece.head].slot_size
    return piece.count == 1 and piece.start % size + piece.numel <= size


def _structured(
    form: Any,
    name: str,
    shape: torch.Size,
    num: int,
    parts: list[Tensor],
    base: Tensor | None,
    out_axis: int | None,
) -> Weight | None:
    """Return the weight object for a form that has one, for matrices and kernels."""
    if len(shape) < 2:
        return None
    if isinstance(form, LowRank):
        return LowRankWeight(name, shape, num, parts[0], parts[1], form.factor, base)
    if isinstance(form, Product):
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
