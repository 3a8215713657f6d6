"""What forms share: the base classes, and how a part of a tensor is described."""

from __future__ import annotations

from dataclasses import dataclass, field

from hyperloom._core.choice import Choice
from hyperloom._core.choices.structure import Structure
from hyperloom._core.errors import a_bool, message
from hyperloom._core.records import Bank, Part, Start
from hyperloom._core.target.spec import TensorSpec

ZERO = Start(mean=0.0, std=0.0, exact=True)


@dataclass(frozen=True, repr=False)
class Form(Choice, open=True):
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

    def structure(self, tensor: TensorSpec) -> Structure:
        """Return how `tensor` follows from its parts, and from a base or bank if it has one."""
        raise TypeError(f"{type(self).__name__} does not define structure()")


@dataclass(frozen=True, repr=False)
class OnBase(Form, open=True):
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


def part_of(
    tensor: TensorSpec,
    factor: str,
    shape: tuple[int, ...],
    start: Start,
    rank_axis: int | None = None,
) -> Part:
    """Return a part of `tensor` that is called `factor`, of another shape than the tensor's.

    A factor of a low-rank product says which of its axes is that of ranks.
    """
    label = f"{tensor.layer_relative_name}.{factor}"
    same = len(shape) == len(tensor.shape)
    extent = tuple(shape[i] for i in tensor.kernel_axes) if same else shape[2:]
    return Part(
        tensor.name, tensor.layer, label, tensor.role, shape, start, False, extent, rank_axis
    )


NAME_WEIGHTS = "Name weights only, e.g. form={'*weight': ...}, or '*kernel' in Flax."


def refuse_mean(form: Form, tensor: TensorSpec, start: Start) -> None:
    """Raise for a tensor that must start around a number other than zero, like a norm's scale."""
    if start.mean != 0.0 or start.number_by_number:
        how = f"around {start.mean:.3g}" if start.orthogonals is None else "as an orthogonal matrix"
        got = f"{form} for {tensor.name!r}, which starts {how}"
        wanted = "tensors that start around zero"
        raise ValueError(message("form", got, wanted, NAME_WEIGHTS))
