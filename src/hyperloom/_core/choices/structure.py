"""How a tensor follows from its parts: structures, which both backends know how to apply.

A form says which structure a tensor has; a structure holds no arrays. `dense` is its definition,
with operators that arrays of every framework share. A backend turns it, with the arrays of a
call, into a weight that layers apply without forming it; what it has no such weight for is
formed by `dense`. So a form is written once and runs on every road.

Legend: `parts` are the generated arrays `(*batch, *part shape)`, in the form's order; `base` is
the tensor that is changed, and `bank` the learned arrays `(num, *shape)` that are combined, as
far as the form has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from hyperloom._core.errors import a_function

Shape = tuple[int, ...]
_BASE = "a base (extend OnBase)"


@dataclass(frozen=True, slots=True)
class Structure:
    """Base class.

    Attributes:
        plus: A number that is added to every part before it is used: the value of a part that is
            generated as zero.
        one_part: Whether the tensor is its first part, with the base added at most. Where that
            part is a sum of a head's rows, so is then the tensor.
        factored: Whether it can be applied for less than it is formed.
    """

    plus: ClassVar[float] = 0.0
    one_part: ClassVar[bool] = False
    factored: ClassVar[bool] = False

    def dense(self, parts: tuple[Any, ...], base: Any, bank: Any, shape: Shape) -> Any:
        """Form the tensor, `(*batch, *shape)`."""
        raise TypeError(f"{type(self).__name__} does not define dense()")

    def unmet(self, parts: tuple[Shape, ...], base: bool, bank: Shape | None, shape: Shape) -> str:
        """Say what a tensor of `shape` needs where this does not make it; `""` where it does.

        Args:
            parts: Shapes of the parts.
            base: Whether there is a base.
            bank: Shape of the bank, `None` without one.
            shape: The tensor's.
        """
        return ""

    def factors(self, parts: tuple[Any, ...], bank: Any) -> tuple[Any, Any, float] | None:
        """Return `U` `(*batch, rows, rank)`, `V` `(*batch, rank, columns)` and a number.

        The tensor, as a matrix, is then `number * U V`, plus the base if there is one. `None`
        where it is not of that kind.
        """
        return None


@dataclass(frozen=True, slots=True)
class Plain(Structure):
    """The part is the tensor."""

    one_part: ClassVar[bool] = True

    def dense(self, parts: tuple[Any, ...], base: Any, bank: Any, shape: Shape) -> Any:
        return parts[0]

    def unmet(self, parts: tuple[Shape, ...], base: bool, bank: Shape | None, shape: Shape) -> str:
        return "" if parts == (shape,) else f"one part {shape}"


@dataclass(frozen=True, slots=True)
class Shifted(Structure):
    """`base + part`; along each axis the part has the tensor's size, or 1."""

    one_part: ClassVar[bool] = True
    factored: ClassVar[bool] = True

    def dense(self, parts: tuple[Any, ...], base: Any, bank: Any, shape: Shape) -> Any:
        return base + parts[0]

    def unmet(self, parts: tuple[Shape, ...], base: bool, bank: Shape | None, shape: Shape) -> str:
        fits = base and len(parts) == 1 and _along(parts[0], shape)
        return "" if fits else f"{_BASE}, and one part {shape} or with 1 in the place of a size"


@dataclass(frozen=True, slots=True)
class Scaled(Structure):
    """`base * (1 + part) * (1 + part) ...`; sizes of the parts as in `Shifted`."""

    plus: ClassVar[float] = 1.0
    factored: ClassVar[bool] = True

    def dense(self, parts: tuple[Any, ...], base: Any, bank: Any, shape: Shape) -> Any:
        for part in parts:
            base = base * part
        return base

    def unmet(self, parts: tuple[Shape, ...], base: bool, bank: Shape | None, shape: Shape) -> str:
        fits = base and all(_along(part, shape) for part in parts)
        return "" if fits else f"{_BASE}, and parts {shape} or with 1 in the place of a size"


@dataclass(frozen=True, slots=True)
class Product(Structure):
    """`factor * U V`, added to the base where there is one.

    Attributes:
        factor: A number.
        split: How many of the tensor's axes are the rows: `U` is `(prod(shape[:split]), rank)`
            and `V` `(rank, prod(shape[split:]))`.
    """

    factor: float = 1.0
    split: int = 1
    factored: ClassVar[bool] = True

    def dense(self, parts: tuple[Any, ...], base: Any, bank: Any, shape: Shape) -> Any:
        product = parts[0] @ parts[1]
        summand = product.reshape((*product.shape[:-2], *shape))
        summand = summand if self.factor == 1.0 else self.factor * summand
        return summand if base is None else base + summand

    def unmet(self, parts: tuple[Shape, ...], base: bool, bank: Shape | None, shape: Shape) -> str:
        rows, columns = math.prod(shape[: self.split]), math.prod(shape[self.split :])
        rank = parts[0][-1:]
        fits = parts == ((rows, *rank), (*rank, columns))
        return "" if fits else f"two parts, ({rows}, rank) and (rank, {columns})"

    def factors(self, parts: tuple[Any, ...], bank: Any) -> tuple[Any, Any, float] | None:
        return parts[0], parts[1], self.factor


@dataclass(frozen=True, slots=True)
class Directed(Structure):
    """`(1 + g) * |base| * V / |V|` with `V = base + factor * U V`.

    Attributes:
        factor: A number.
        split: As of `Product`.
        inputs: The axes that lengths are taken over, counted from the end.
    """

    factor: float
    split: int
    inputs: tuple[int, ...]
    factored: ClassVar[bool] = True

    def dense(self, parts: tuple[Any, ...], base: Any, bank: Any, shape: Shape) -> Any:
        changed = Product(self.factor, self.split).dense(parts[:2], base, bank, shape)
        lengths = self.length(base) / self.length(changed)
        return changed * (lengths * (1 + parts[2]))

    def unmet(self, parts: tuple[Shape, ...], base: bool, bank: Shape | None, shape: Shape) -> str:
        missing = Product(self.factor, self.split).unmet(parts[:2], base, bank, shape)
        axes = range(-len(shape), 0)
        ones = tuple(1 if i in self.inputs else n for i, n in zip(axes, shape, strict=True))
        fits = base and not missing and parts[2:] == (ones,)
        return "" if fits else f"{_BASE}, factors as of a Product, and a part {ones}"

    def length(self, tensor: Any) -> Any:
        """Return the lengths over the inputs, with 1 along their axes."""
        return (tensor * tensor).sum(axis=self.inputs, keepdims=True) ** 0.5

    def scale(self, parts: tuple[Any, ...], base: Any) -> Any:
        """Return what `V` is multiplied with, `(*batch, rows)`; `V` is not formed.

        For a tensor whose outputs are its rows: all of `inputs` are columns.
        """
        u, v, g = parts
        rows = base.reshape((base.shape[0], -1))
        squares, u = (rows * rows).sum(axis=-1), self.factor * u
        crossed, gram = rows @ v.mT, v @ v.mT
        lengths = squares + (u * (2 * crossed + u @ gram)).sum(axis=-1)
        return (squares / lengths) ** 0.5 * (1 + g.reshape((*g.shape[: u.ndim - 2], -1)))


@dataclass(frozen=True, slots=True)
class Sum(Structure):
    """`sum_r c_r T_r` over the arrays `T` of the bank, added to the base where there is one.

    The part is `c`, of shape `(num, 1, ..., 1)` with an axis for each of the tensor's.
    """

    factored: ClassVar[bool] = True

    def dense(self, parts: tuple[Any, ...], base: Any, bank: Any, shape: Shape) -> Any:
        summand = (parts[0] * bank).sum(-len(shape) - 1)
        return summand if base is None else base + summand

    def unmet(self, parts: tuple[Shape, ...], base: bool, bank: Shape | None, shape: Shape) -> str:
        num, ones = (bank or parts[0])[:1], (1,) * len(shape)
        if parts == ((*num, *ones),) and bank == (*num, *shape):
            return ""
        drawn = ", ".join(map(str, ones))
        sizes = ", ".join(map(str, shape))
        return f"one part (num, {drawn}), and a bank (num, {sizes})"


@dataclass(frozen=True, slots=True)
class Formed(Structure):
    """A function of the parts, for what is none of the others. It is always formed.

    Attributes:
        function: `function(parts, base)`, in operators that arrays of every framework have.
    """

    function: Callable[[tuple[Any, ...], Any], Any]

    def __post_init__(self) -> None:
        a_function("Formed(function=)", self.function, "a function (parts, base)")

    def dense(self, parts: tuple[Any, ...], base: Any, bank: Any, shape: Shape) -> Any:
        return self.function(parts, base)


def _along(part: Shape, shape: Shape) -> bool:
    """Whether a part has along each axis the tensor's size, or 1."""
    return len(part) == len(shape) and all(p in (1, n) for p, n in zip(part, shape, strict=True))
