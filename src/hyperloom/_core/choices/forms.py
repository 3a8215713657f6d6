"""What is generated for a tensor: the tensor itself, or a change to one that is there.

A form says of which parts a tensor is made. Layouts place parts; `assemble` joins them. It uses
only operators that arrays of every framework share, so it is written here, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hyperloom._core.choice import Choice
from hyperloom._core.errors import a_bool, finite_float, message, positive_int
from hyperloom._core.records import Bank, Part, Role, Start
from hyperloom._core.target.spec import TensorSpec


@dataclass(frozen=True, repr=False)
class Form(Choice):
    """Base class: what is generated for each tensor it is given to."""

    @property
    def has_base(self) -> bool:
        """Whether the generated parts change a tensor that is there already."""
        return False

    @property
    def trains_base(self) -> bool:
        """Whether that tensor is learned too."""
        return False

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        """Return the parts of `tensor`; `start` is how the whole tensor should start out."""
        label = tensor.layer_relative_name
        shape, extent = tensor.shape, tuple(tensor.shape[i] for i in tensor.kernel_axes)
        return (Part(tensor.name, tensor.layer, label, tensor.role, shape, start, True, extent),)

    def bank(self, tensor: TensorSpec, start: Start) -> Bank | None:
        """Return the bank that `tensor` is combined from; tensors of equal shape share one."""
        return None

    def assemble(self, parts: tuple[Any, ...], base: Any, shape: tuple[int, ...]) -> Any:
        """Join the parts of a tensor.

        Args:
            parts: Generated parts, each `(*batch, *part shape)`.
            base: The tensor that is changed, or the bank that is combined, or `None`.
            shape: Shape of the tensor.

        Returns:
            `(*batch, *shape)`.
        """
        return parts[0]


@dataclass(frozen=True, repr=False)
class Whole(Form):
    """The tensor itself is generated. The default."""


@dataclass(frozen=True, repr=False)
class OnBase(Form):
    """What the forms that change the target's own tensor share.

    Args:
        trained: Learn the target's tensor too, from its given values; by default it is frozen.
    """

    trained: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        a_bool(f"{type(self).__name__}(trained=)", self.trained)

    @property
    def has_base(self) -> bool:
        return True

    @property
    def trains_base(self) -> bool:
        return self.trained


@dataclass(frozen=True, repr=False)
class Delta(OnBase):
    """A change is generated and added to the target's own tensor.

    The change starts at exactly zero: every condition starts as the target given.

    Args:
        trained: Learn the target's tensor too, from its given values; by default it is frozen.
    """

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        return super().parts(tensor, Start(mean=0.0, std=0.0, exact=True))

    def assemble(self, parts: tuple[Any, ...], base: Any, shape: tuple[int, ...]) -> Any:
        return base + parts[0]


_ZERO = Start(mean=0.0, std=0.0, exact=True)


def _part(tensor: TensorSpec, factor: str, shape: tuple[int, ...], start: Start) -> Part:
    label = f"{tensor.layer_relative_name}.{factor}"
    same = len(shape) == len(tensor.shape)
    extent = tuple(shape[i] for i in tensor.kernel_axes) if same else shape[2:]
    return Part(tensor.name, tensor.layer, label, tensor.role, shape, start, False, extent)


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
        left, right = (random, _ZERO) if inputs_first else (_ZERO, random)
        return (
            _part(tensor, "u", (rows, self.rank), left),
            _part(tensor, "v", (self.rank, columns), right),
        )

    def assemble(self, parts: tuple[Any, ...], base: Any, shape: tuple[int, ...]) -> Any:
        u, v = parts
        product = u @ v
        return base + self.factor * product.reshape(*product.shape[:-2], *shape)


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
        _refuse_mean(self, tensor, start)
        std = math.sqrt(start.std / math.sqrt(self.rank))
        each = Start(0.0, std, measured=start.measured)
        return (
            _part(tensor, "u", (rows, self.rank), each),
            _part(tensor, "v", (self.rank, columns), each),
        )

    def assemble(self, parts: tuple[Any, ...], base: Any, shape: tuple[int, ...]) -> Any:
        product = parts[0] @ parts[1]
        return product.reshape(*product.shape[:-2], *shape)


def _matrix(form: Form, tensor: TensorSpec) -> tuple[int, int]:
    """Return the tensor's sizes as a matrix."""
    if len(tensor.shape) < 2:
        raise ValueError(
            message(
                "form",
                f"{form} for {tensor.name!r} of shape {tensor.shape}",
                "a tensor with at least two axes",
                "Name weights only, e.g. form={'*.weight': ...}.",
            )
        )
    split = tensor.matrix_split
    return math.prod(tensor.shape[:split]), math.prod(tensor.shape[split:])


def _refuse_mean(form: Form, tensor: TensorSpec, start: Start) -> None:
    """Raise for a tensor that must start around a number other than zero, like a norm's scale."""
    if start.mean != 0.0 or start.native:
        got = f"{form} for {tensor.name!r}, which starts around {start.mean:.3g}"
        way_out = "Name weights only, e.g. form={'*.weight': ...}."
        raise ValueError(message("form", got, "tensors that start around zero", way_out))


def _along(tensor: TensorSpec, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the tensor's shape with 1 on every axis but `axes`; `None` where there are none."""
    if not axes:
        return None
    return tuple(n if i in axes else 1 for i, n in enumerate(tensor.shape))


@dataclass(frozen=True, repr=False)
class Scale(OnBase):
    """`base * (1 + s)`, a number for each output (row): FiLM, HyperLSTM.

    `s` starts at zero, so every condition starts as the target. Give the bias a form of its own
    (`Whole()` or `Delta()`) for FiLM's shift. Perez et al., "FiLM", AAAI 2018; Ha, Dai and Le,
    "HyperNetworks", ICLR 2017.

    Args:
        trained: Learn the target's tensor too; by default it is frozen.
        inputs: Scale the inputs (columns) instead of the outputs. Default False.

    Raises:
        ValueError: `inputs` for a tensor without an input axis, such as a bias.
    """

    inputs: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        a_bool("Scale(inputs=)", self.inputs)

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        shape = _along(tensor, tensor.in_axes if self.inputs else tensor.out_axes)
        if shape is None:
            got = f"{self} for {tensor.name!r} of shape {tensor.shape}"
            raise ValueError(message("form", got, "a tensor with such an axis"))
        return (_part(tensor, "s", shape, _ZERO),)

    def assemble(self, parts: tuple[Any, ...], base: Any, shape: tuple[int, ...]) -> Any:
        return base * (1 + parts[0])


@dataclass(frozen=True, repr=False)
class Shift(OnBase):
    """`base + s`, a number for each output (row), added to all of the row.

    For a bias that is FiLM's shift. `s` starts at zero.

    Args:
        trained: Learn the target's tensor too; by default it is frozen.
    """

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        shape = _along(tensor, tensor.out_axes)
        return (_part(tensor, "s", tensor.shape if shape is None else shape, _ZERO),)

    def assemble(self, parts: tuple[Any, ...], base: Any, shape: tuple[int, ...]) -> Any:
        return base + parts[0]


@dataclass(frozen=True, repr=False)
class RankOne(OnBase):
    """`base * (1 + r) * (1 + s)`, a number for each output and one for each input.

    A tensor without an input axis (a bias) gets the first only. Both start at zero: every
    condition starts as the target. Wen, Tran and Ba, "BatchEnsemble", ICLR 2020.

    Args:
        trained: Learn the target's tensor too; by default it is frozen.
    """

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        out, into = _along(tensor, tensor.out_axes), _along(tensor, tensor.in_axes)
        parts = (_part(tensor, "r", tensor.shape if out is None else out, _ZERO),)
        return parts if into is None else (*parts, _part(tensor, "s", into, _ZERO))

    def assemble(self, parts: tuple[Any, ...], base: Any, shape: tuple[int, ...]) -> Any:
        made = base * (1 + parts[0])
        return made * (1 + parts[1]) if len(parts) > 1 else made


@dataclass(frozen=True, repr=False)
class Templates(Form):
    """A combination of `num` learned templates, shared by all tensors of equal shape.

    Generated are the coefficients. Savarese and Maire, "Learning Implicitly Recurrent CNNs
    Through Parameter Sharing", ICLR 2019. Coefficients start with variance 1, templates with the
    tensor's own initial variance divided by `num`.

    Args:
        num: Number of templates.

    Raises:
        ValueError: `num` below 1.
    """

    num: int

    def __post_init__(self) -> None:
        positive_int("Templates(num=)", self.num)

    def bank(self, tensor: TensorSpec, start: Start) -> Bank:
        _refuse_mean(self, tensor, start)
        return Bank((self.num, *tensor.shape), start.std / math.sqrt(self.num))

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        ones = (1,) * len(tensor.shape)
        return (_part(tensor, "c", (self.num, *ones), Start(0.0, 1.0)),)

    def assemble(self, parts: tuple[Any, ...], base: Any, shape: tuple[int, ...]) -> Any:
        return (parts[0] * base).sum(-base.ndim)
