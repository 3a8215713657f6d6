"""Numbers for the outputs and inputs of the target's own tensor are generated."""

from __future__ import annotations

from dataclasses import dataclass

from hyperloom._core.choices.forms.base import ZERO, OnBase, part_of
from hyperloom._core.choices.structure import Scaled, Shifted, Structure
from hyperloom._core.errors import a_bool, message
from hyperloom._core.records import Part, Start
from hyperloom._core.target.spec import TensorSpec


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
        return (part_of(tensor, "s", shape, ZERO),)

    def structure(self, tensor: TensorSpec) -> Structure:
        return Scaled()


@dataclass(frozen=True, repr=False)
class Shift(OnBase):
    """`base + s`, a number for each output (row), added to all of the row.

    For a bias that is FiLM's shift. `s` starts at zero.

    Args:
        trained: Learn the target's tensor too; by default it is frozen.
    """

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        shape = _along(tensor, tensor.out_axes)
        return (part_of(tensor, "s", tensor.shape if shape is None else shape, ZERO),)

    def structure(self, tensor: TensorSpec) -> Structure:
        return Shifted()


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
        parts = (part_of(tensor, "r", tensor.shape if out is None else out, ZERO),)
        return parts if into is None else (*parts, part_of(tensor, "s", into, ZERO))

    def structure(self, tensor: TensorSpec) -> Structure:
        return Scaled()


def _along(tensor: TensorSpec, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the tensor's shape with 1 on every axis but `axes`; `None` where there are none."""
    if not axes:
        return None
    return tuple(n if i in axes else 1 for i, n in enumerate(tensor.shape))
