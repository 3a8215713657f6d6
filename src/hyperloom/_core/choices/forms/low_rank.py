"""A product of two thin matrices is generated: alone, or added to the target's own tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hyperloom._core.choices.forms.base import (
    NAME_WEIGHTS,
    ZERO,
    Form,
    OnBase,
    part_of,
    refuse_mean,
)
from hyperloom._core.choices.structure import Product, Structure
from hyperloom._core.errors import finite_float, message, positive_int
from hyperloom._core.records import Part, Role, Start
from hyperloom._core.target.spec import TensorSpec


@dataclass(frozen=True, repr=False)
class LoRA(OnBase):
    """`base + alpha / rank * U V`: LoRA, with factors of its own for each condition.

    For a tensor `(d0, d1, ...)` with its outputs first, as PyTorch has them, `U` is `(d0, rank)`
    and `V` is `(rank, d1 * ...)`: for a linear layer LoRA's B and A. With its outputs last, as JAX
    has them, `U` is `(... * d1, rank)` and `V` is `(rank, d0)`: LoRA's A and B. The factor at the
    outputs starts at zero, so every condition starts as the target; the one at the inputs with
    variance `1 / (3 fan_in)`, LoRA's own. Hu et al., "LoRA", ICLR 2022.

    Args:
        rank: Rank of the product.
        alpha: Numerator of the factor on it; default `rank`, a factor of 1.
        trained: Learn the target's tensor too; by default it is frozen.

    Raises:
        ValueError: `rank` below 1, or a tensor with fewer than two axes.
    """

    rank: int
    alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("LoRA(rank=)", self.rank)
        if self.alpha is not None:
            finite_float("LoRA(alpha=)", self.alpha)

    @property
    def factor(self) -> float:
        """The factor on the product."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        rows, columns = _matrix(self, tensor)
        random = Start(0.0, 1 / math.sqrt(3 * tensor.fan_in))
        inputs_first = tensor.outputs_last and tensor.role is Role.WEIGHT
        left, right = (random, ZERO) if inputs_first else (ZERO, random)
        return (
            part_of(tensor, "u", (rows, self.rank), left),
            part_of(tensor, "v", (self.rank, columns), right),
        )

    def structure(self, tensor: TensorSpec) -> Structure:
        return Product(self.factor, tensor.matrix_split)


@dataclass(frozen=True, repr=False)
class LowRank(Form):
    """`U V`, without a base: the tensor itself is a low-rank product.

    Shapes as in `LoRA`. Both factors start at random, so that the product has the tensor's own
    initial variance.

    Args:
        rank: Rank of the product.

    Raises:
        ValueError: `rank` below 1, or a tensor with fewer than two axes.
    """

    rank: int

    def __post_init__(self) -> None:
        positive_int("LowRank(rank=)", self.rank)

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        rows, columns = _matrix(self, tensor)
        refuse_mean(self, tensor, start)
        std = math.sqrt(start.std / math.sqrt(self.rank))
        start_of_factor = Start(0.0, std, measured=start.measured)
        return (
            part_of(tensor, "u", (rows, self.rank), start_of_factor),
            part_of(tensor, "v", (self.rank, columns), start_of_factor),
        )

    def structure(self, tensor: TensorSpec) -> Structure:
        return Product(split=tensor.matrix_split)


def _matrix(form: Form, tensor: TensorSpec) -> tuple[int, int]:
    """Return the tensor's sizes as a matrix."""
    if len(tensor.shape) < 2:
        raise ValueError(
            message(
                "form",
                f"{form} for {tensor.name!r} of shape {tensor.shape}",
                "a tensor with at least two axes",
                NAME_WEIGHTS,
            )
        )
    split = tensor.matrix_split
    return math.prod(tensor.shape[:split]), math.prod(tensor.shape[split:])
