"""The coefficients of learned templates are generated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hyperloom._core.choices.forms.base import Form, part_of, refuse_mean
from hyperloom._core.choices.structure import Structure, Sum
from hyperloom._core.errors import positive_int
from hyperloom._core.records import Bank, Part, Start
from hyperloom._core.target.spec import TensorSpec


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
        refuse_mean(self, tensor, start)
        return Bank((self.num, *tensor.shape), start.std / math.sqrt(self.num))

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        ones = (1,) * len(tensor.shape)
        return (part_of(tensor, "c", (self.num, *ones), Start(0.0, 1.0)),)

    def structure(self, tensor: TensorSpec) -> Structure:
        return Sum()
