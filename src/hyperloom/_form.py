"""What is generated for a tensor: the tensor itself, or a change to one that is there.

A form says of which parts a tensor is made. Layouts place parts; `assemble` joins them. It uses
only operators that arrays of every framework share, so it is written here, once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hyperloom._choice import Choice
from hyperloom._spec import Role, TensorSpec


@dataclass(frozen=True, slots=True)
class Start:
    """How a generated part starts out.

    Attributes:
        mean: Its mean.
        std: Its standard deviation, for a condition whose features have root mean square 1.
        native: Start as a copy of the target's own values instead (bias-hyperinit).
        exact: The mean must hold exactly, so `std` is 0 and the part may not share a head with
            parts that start at random.
        measured: Mean and standard deviation are those of a template, so they differ from one
            template of the same shapes to the next.
    """

    mean: float = 0.0
    std: float = 1.0
    native: bool = False
    exact: bool = False
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One generated array: a tensor, or a factor of one.

    Attributes:
        tensor: Name of the target's tensor.
        layer: Path of the module that owns it.
        label: Its name below the layer, and which factor it is; equal layers have equal labels.
        role: Role of the tensor.
        shape: Shape of the part.
        start: How it starts out.
        whole: Whether it has the tensor's own numbers, rather than those of a factor.
        extent: Its sizes along the axes of a convolution's kernel.
    """

    tensor: str
    layer: str
    label: str
    role: Role
    shape: tuple[int, ...]
    start: Start
    whole: bool = True
    extent: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Bank:
    """Learned arrays that several tensors combine.

    Attributes:
        shape: `(num, *shape of the tensors)`.
        std: Standard deviation of its numbers at the start.
    """

    shape: tuple[int, ...]
    std: float


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
