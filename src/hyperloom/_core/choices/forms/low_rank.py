"""A product of two thin matrices is generated: alone, or added to the target's own tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hyperloom._core.choices.forms.base import (
    NAME_WEIGHTS,
    ZERO,
    Form,
    OnBase,
    part_of,
    refuse_mean,
)
from hyperloom._core.choices.structure import Directed, Product, Structure
from hyperloom._core.errors import a_bool, finite_float, message, positive_int
from hyperloom._core.records import Part, Role, Start
from hyperloom._core.target.spec import TensorSpec


@dataclass(frozen=True, repr=False)
class LoRA(OnBase):
    """`base + alpha / rank * U V`: LoRA, with factors of its own for each condition.

    `hnet.factors(condition)` returns the factors, as PEFT has them.

    For a tensor `(d0, d1, ...)` with its outputs first, as PyTorch has them, `U` is `(d0, rank)`
    and `V` is `(rank, d1 * ...)`: for a linear layer LoRA's B and A. With its outputs last, as JAX
    has them, `U` is `(... * d1, rank)` and `V` is `(rank, d0)`: LoRA's A and B. The factor at the
    outputs starts at zero, so every condition starts as the target; the one at the inputs with
    variance `1 / (3 fan_in)`, LoRA's own. Hu et al., "LoRA", ICLR 2022.
    With `rslora` the factor on the product is `alpha / sqrt(rank)`: Kalajdzievski, "A Rank
    Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023.

    Args:
        rank: Rank of the product.
        alpha: Numerator of the factor on it; default `rank`, a factor of 1.
        rslora: Whether the factor's denominator is `sqrt(rank)`. Default False.
        trained: Learn the target's tensor too; by default it is frozen.

    Raises:
        ValueError: `rank` below 1, or a tensor with fewer than two axes.
    """

    rank: int
    alpha: float | None = None
    rslora: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_low_rank(self)

    @property
    def factor(self) -> float:
        """The factor on the product."""
        return _factor(self)

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        return _change(self, self.rank, tensor)

    def structure(self, tensor: TensorSpec) -> Structure:
        return Product(self.factor, tensor.matrix_split)


@dataclass(frozen=True, repr=False)
class DoRA(OnBase):
    """A low-rank change of the base's directions, and their lengths apart from it.

        W = (1 + g) * |base| * V / |V|,   V = base + alpha / rank * U V

    with `| |` the length over the inputs of each output (and over the extent of a kernel), and a
    number `g` for each output: PEFT's magnitude is `(1 + g) * |base|`. Factors and their start are
    those of `LoRA`; `g` starts at zero, so every condition starts as the target. Gradients flow
    through `|V|` too, which the paper proposes to leave out (4.3). Liu et al., "DoRA", ICML 2024.

    Args:
        rank: Rank of the product.
        alpha: Numerator of the factor on it; default `rank`, a factor of 1.
        rslora: Whether the factor's denominator is `sqrt(rank)`. Default False.
        trained: Learn the target's tensor too; by default it is frozen.

    Raises:
        ValueError: `rank` below 1, or a tensor with fewer than two axes or without outputs.
    """

    rank: int
    alpha: float | None = None
    rslora: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_low_rank(self)

    @property
    def factor(self) -> float:
        """The factor on the product."""
        return _factor(self)

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        change = _change(self, self.rank, tensor)
        sizes = tuple(n if i in tensor.out_axes else 1 for i, n in enumerate(tensor.shape))
        return (*change, part_of(tensor, "g", sizes, ZERO))

    def structure(self, tensor: TensorSpec) -> Structure:
        num = len(tensor.shape)
        inputs = tuple(i - num for i in range(num) if i not in tensor.out_axes)
        return Directed(self.factor, tensor.matrix_split, inputs)


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
            part_of(tensor, "u", (rows, self.rank), start_of_factor, 1),
            part_of(tensor, "v", (self.rank, columns), start_of_factor, 0),
        )

    def structure(self, tensor: TensorSpec) -> Structure:
        return Product(split=tensor.matrix_split)


def _check_low_rank(form: LoRA | DoRA) -> None:
    """Check the options that both have."""
    name = type(form).__name__
    positive_int(f"{name}(rank=)", form.rank)
    if form.alpha is not None:
        finite_float(f"{name}(alpha=)", form.alpha)
    a_bool(f"{name}(rslora=)", form.rslora)


def _factor(form: LoRA | DoRA) -> float:
    alpha = form.rank if form.alpha is None else form.alpha
    return alpha / (math.sqrt(form.rank) if form.rslora else form.rank)


def _change(form: Form, rank: int, tensor: TensorSpec) -> tuple[Part, ...]:
    """Return the factors of a change that starts at zero."""
    rows, columns = _matrix(form, tensor)
    random = Start(0.0, 1 / math.sqrt(3 * tensor.fan_in))
    inputs_first = tensor.outputs_last and tensor.role is Role.WEIGHT
    left, right = (random, ZERO) if inputs_first else (ZERO, random)
    return (
        part_of(tensor, "u", (rows, rank), left, 1),
        part_of(tensor, "v", (rank, columns), right, 0),
    )


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
