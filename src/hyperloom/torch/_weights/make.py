"""From a plan and its heads to generated weights as objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom._core.backend import weights
from hyperloom._core.choices.structure import Directed, Product, Scaled, Shifted, Structure, Sum
from hyperloom._core.plan.plan import Plan
from hyperloom._core.target.spec import TensorSpec
from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._generate.generator import Generator, fixed_of
from hyperloom.torch._generate.heads import Seen
from hyperloom.torch._generate.numbers import slot_features
from hyperloom.torch._weights.directed import directed
from hyperloom.torch._weights.factored import LowRankWeight, ScaledWeight, ShiftedWeight
from hyperloom.torch._weights.sums import SumWeight
from hyperloom.torch._weights.weights import Dense, Weight


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
    maker = maker_of(generator, encoded, index, record)
    return maker.weights(), maker.shared()


def maker_of(
    generator: Generator, encoded: Encoded, index: Tensor | None, record: Any = None
) -> WeightMaker:
    """Return what makes the weight objects of a call, one by one; see `weights_of`."""
    modules: Any = generator._modules
    parts = (modules["trunks"], modules["heads"], *fixed_of(generator))
    return WeightMaker(generator.plan, *parts, generator.dtypes, encoded, index, record)


class WeightMaker(weights.WeightMaker):
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
        super().__init__(plan, scales, bases, banks)
        self.heads: Any = heads
        self.dtypes, self.index, self.record = dtypes, index, record
        self.num = (encoded.vector if index is None else index).shape[0]  # may be a symbol
        self.ids = None if encoded.ids is None else self._of_rows(encoded.ids)
        features = slot_features(plan, trunks, heads, encoded)
        self.features = {i: self._of_rows(value) for i, value in features.items()}

    def _of_rows(self, tensor: Tensor) -> Tensor:
        """Give each row the slice of its condition."""
        return tensor if self.index is None else tensor.index_select(0, self.index)

    def _head(self, index: int) -> Any:
        return self.heads[self.plan.heads[index].name]

    def slot_features(self, index: int, slot: int) -> Tensor:
        head, features = self.plan.heads[index], self.features[index]
        if head.embedding:
            features = features[..., slot, :]
        return features * self._head(index).signs[slot] if head.signs else features

    def weight_and_bias(self, index: int) -> tuple[Tensor, Tensor]:
        head = self._head(index)
        return head.weight, head.bias

    def shared_row(self, index: int) -> Tensor:
        return self._head(index).row

    def numbers(self, index: int) -> Tensor:
        seen = Seen(self.features.get(index), self.ids, (self.num,), self.scales)
        return self._head(index).numbers(seen)

    def sum(self, tensor: TensorSpec, features: Tensor, templates: Tensor, base: Any) -> Weight:
        weight = SumWeight(*self._named(tensor), features, templates, base, record=self.record)
        if len(tensor.shape) < 2:
            return self.formed(tensor, weight.dense())
        return weight.to(self.dtypes[tensor.name])

    def structured(
        self,
        structure: Structure,
        tensor: TensorSpec,
        parts: tuple[Tensor, ...],
        base: Tensor | None,
        bank: Tensor | None,
    ) -> Weight | None:
        """Return the weight that a structure has; `None` where the tensor is to be formed.

        That has one whose parts lie along the axes that layers have: factors along the first
        two, a product whose rows are the first. Its parts are in the target's dtype, which inputs
        have: a base in bfloat16 may have a generator in float32.
        """
        weight = self._structured(structure, tensor, parts, base, bank)
        return None if weight is None else weight.to(self.dtypes[tensor.name])

    def _structured(
        self,
        structure: Structure,
        tensor: TensorSpec,
        parts: tuple[Tensor, ...],
        base: Tensor | None,
        bank: Tensor | None,
    ) -> Weight | None:
        named, shape, record = self._named(tensor), tensor.shape, {"record": self.record}
        match structure:
            case Product(factor=factor) if parts[0].shape[-2] == shape[0]:
                return LowRankWeight(*named, parts[0], parts[1], factor, base, **record)
            case Directed() if base is not None and parts[2].shape[1] == shape[0]:
                return directed(named, structure, parts, base, self.record)
            case Sum() if bank is not None:
                return SumWeight(*named, parts[0].flatten(1), bank.flatten(1).mT, base, **record)
            case Shifted() if base is not None and parts[0].shape[1:] == (shape[0], 1):
                return ShiftedWeight(*named, base, parts[0].flatten(1), **record)
            case Scaled() if base is not None:
                factors = _by_axis(parts, shape)
                return None if factors is None else ScaledWeight(*named, base, *factors, **record)
            case _:
                return None

    def formed(self, tensor: TensorSpec, value: Tensor) -> Weight:
        return Dense(*self._named(tensor), self.cast(value, tensor), record=self.record)

    def _named(self, tensor: TensorSpec) -> tuple[str, torch.Size, int]:
        return tensor.name, torch.Size(tensor.shape), self.num

    def product(self, features: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        return F.linear(features, rows, bias)

    def split(self, array: Tensor, sizes: Sequence[int], axis: int) -> Sequence[Tensor]:
        return array.split(list(sizes), axis)

    def permute(self, array: Tensor, axes: tuple[int, ...]) -> Tensor:
        return array.permute(axes)

    def cast(self, value: Tensor, tensor: TensorSpec) -> Tensor:
        dtype = self.dtypes[tensor.name]
        return value if value.dtype == dtype else value.to(dtype)


def _by_axis(
    parts: tuple[Tensor, ...], shape: tuple[int, ...]
) -> tuple[Tensor | None, Tensor | None] | None:
    """Return the factors `(B, n)` along the first and the second axis; `None` for any others."""
    factors: list[Tensor | None] = [None, None]
    for part in parts:
        long = [axis for axis, size in enumerate(part.shape[1:]) if size != 1]
        # One number for all of the tensor goes with its first axis.
        axis = long[0] if long else 0
        if len(long) > 1 or axis > 1 or factors[axis] is not None:
            return None
        factors[axis] = part.flatten(1).expand(-1, shape[axis])
    return factors[0], factors[1]
