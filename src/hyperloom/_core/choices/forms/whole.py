"""The tensor itself is generated, or a change of its shape."""

from __future__ import annotations

from dataclasses import dataclass

from hyperloom._core.choices.forms.base import Form, OnBase
from hyperloom._core.choices.structure import Plain, Shifted, Structure
from hyperloom._core.records import Part, Start
from hyperloom._core.target.spec import TensorSpec


@dataclass(frozen=True, repr=False)
class Whole(Form):
    """The tensor itself is generated. The default."""

    def structure(self, tensor: TensorSpec) -> Structure:
        return Plain()


@dataclass(frozen=True, repr=False)
class Delta(OnBase):
    """A change is generated and added to the target's own tensor.

    The change starts at exactly zero: every condition starts as the target given.

    Args:
        trained: Learn the target's tensor too, from its given values; by default it is frozen.
    """

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        return super().parts(tensor, Start(mean=0.0, std=0.0, exact=True))

    def structure(self, tensor: TensorSpec) -> Structure:
        return Shifted()
