"""Conditions that are sequences or sets: a context of elements, and encoders of sets to a vector.

The raw value of each is a floating array `(*batch, L, dim)`, or the pair of it and a mask
`(*batch, L)` of bools, true where an element is real: so sets of different sizes are one batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hyperloom._core.choices.conditions import Condition
from hyperloom._core.choices.slot_trunks import divides
from hyperloom._core.errors import finite_float, positive_int


@dataclass(frozen=True, repr=False)
class Elements(Condition):
    """Base class of the conditions whose raw value is a set of elements.

    Args:
        dim: Width of an element.
        std: Root mean square that their entries are expected to have; elements are divided by it.
    """

    dim: int
    std: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        positive_int(f"{name}(dim=)", self.dim)
        finite_float(f"{name}(std=)", self.std, least=1e-12)


@dataclass(frozen=True, repr=False)
class Context(Elements):
    """A sequence or set of elements that a trunk over slots attends to: tokens, support examples.

    The raw value is a floating array `(L, dim)` for one condition or `(*batch, L, dim)` for a
    batch, or the pair of it and a mask `(*batch, L)` of bools, true where an element is real. It
    has no order of its own: put positions into the elements. There is no vector; for one beside
    it, `Concat(Vector(...), Context(...))`.

    Args:
        dim: Width of an element.
        std: Root mean square that their entries are expected to have; elements are divided by it.
            Default 1.

    Raises:
        ValueError: `dim` below 1, or `std` not positive.
    """

    @property
    def width(self) -> int:
        return 0

    @property
    def context_width(self) -> int:
        return self.dim


@dataclass(frozen=True, repr=False)
class MeanPool(Elements):
    """The mean of a set's elements: a vector for any trunk. The raw value is that of a `Context`.

    Zaheer et al., "Deep Sets", NeurIPS 2017, whose map of each element is left to the user. A set
    without elements has the mean 0.

    Args:
        dim: Width of an element, and of the vector.
        std: Root mean square that their entries are expected to have; elements are divided by it.
            Default 1.

    Raises:
        ValueError: `dim` below 1, or `std` not positive.
    """

    @property
    def width(self) -> int:
        return self.dim


@dataclass(frozen=True, repr=False)
class AttentionPool(Elements):
    """One learned query attends to a set's elements: a vector for any trunk.

    Lee et al., "Set Transformer", ICML 2019 (pooling by multihead attention, with one seed). The
    raw value is that of a `Context`; a set without elements has the vector of the output bias.

    Args:
        dim: Width of an element.
        out: Width of the vector. Default `dim`.
        heads: Attention heads; they divide `out`. Default 1.
        std: Root mean square that their entries are expected to have; elements are divided by it.
            Default 1.

    Raises:
        ValueError: A size below 1, heads that do not divide the width, or `std` not positive.
    """

    out: int | None = None
    heads: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out is not None:
            positive_int("AttentionPool(out=)", self.out)
        positive_int("AttentionPool(heads=)", self.heads)
        divides("AttentionPool", self.heads, self.width)

    @property
    def width(self) -> int:
        return self.out or self.dim

    @property
    def num_parameters(self) -> int:
        width = self.width
        return width + 2 * width * (self.dim + 1) + width * (width + 1)
