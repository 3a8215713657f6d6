"""How features are computed from the condition's vector: trunk objects without a framework."""

from __future__ import annotations

from dataclasses import dataclass

from hyperloom._core.choice import Choice
from hyperloom._core.errors import a_bool, a_string, finite_float, message, positive_int, shown

ACTIVATIONS = (
    "relu",
    "gelu",
    "silu",
    "elu",
    "leaky_relu",
    "tanh",
    "sigmoid",
    "softplus",
    "identity",
)
NORMS = ("rms", "layer", "batch")
ACTIVATION_WANTED = "one of " + ", ".join(ACTIVATIONS)


def a_word(
    argument: str, value: object, words: tuple[str, ...], wanted: str, way_out: str = ""
) -> None:
    """Raise unless `value` is one of `words`."""
    if not isinstance(value, str):
        raise TypeError(message(argument, shown(value), wanted, way_out))
    if value not in words:
        raise ValueError(message(argument, repr(value), wanted, way_out))


@dataclass(frozen=True, repr=False)
class Trunk(Choice, instead="Give a module of your framework as trunk."):
    """Base class of the trunk objects."""

    @property
    def needs_ids(self) -> bool:
        """Whether the trunk keeps something for each condition id."""
        return False

    def out_width(self, in_width: int) -> int:
        """Width `F` of the features for an input of `in_width`."""
        return in_width

    @property
    def over_slots(self) -> bool:
        """Whether the trunk gets all slots of a condition at once, and its context."""
        return False

    def inner_fans(self) -> dict[str, int]:
        """Inputs of each matrix that reads the trunk's own features, by its name in the trunk."""
        return {}

    def num_parameters(self, in_width: int, context: int = 0) -> int:
        """Learned numbers for an input of `in_width` and a context of width `context`."""
        return 0


@dataclass(frozen=True, repr=False)
class Linear(Trunk):
    """No trunk: the head is a linear map of the condition. What `trunk=None` means."""


@dataclass(frozen=True, init=False, repr=False)
class MLP(Trunk):
    """Fully connected trunk: linear, norm, activation, dropout, once for each width.

    With `norm="rms"` (default) the last features are also divided by their root mean square,
    which has no parameters: every condition and every chunk then starts with weights of exactly
    the scale that the plan asks for. Without it the scale varies from condition to condition
    and is right on average only.

    Weights start uniform with variance `2 / fan_in` (He), for tanh `1 / fan_in` and for sigmoid
    `16 / fan_in`, which makes up for their slope at 0; biases uniform in `1 / sqrt(fan_in)`.

    Args:
        *widths: Width of each layer.
        activation: One of relu, gelu, silu, elu, leaky_relu, tanh, sigmoid, softplus, identity.
        dropout: Probability of dropping a feature while training. Default 0.
        norm: `"rms"` (last features only, no parameters), `"layer"` or `"batch"` (each layer,
            with scale and shift), or `None`.
        spectral: Divide each layer's weight by its largest singular value, whatever its values
            are: exactly, by a decomposition at every call, so without state. Miyato et al.,
            "Spectral Normalization for Generative Adversarial Networks", ICLR 2018. Default
            False.
        per_condition: With `norm="batch"`: each condition id has its own statistics. While
            training, the slots of an id (chunks, group members) are normalised among
            themselves, whatever else is in the batch; running statistics are kept by id. Needs
            a condition with ids. Default False: one set for all rows.

    Raises:
        ValueError: No width, a width below 1, an unknown activation or norm, or a dropout
            outside [0, 1).
    """

    widths: tuple[int, ...]
    activation: str = "relu"
    dropout: float = 0.0
    norm: str | None = "rms"
    spectral: bool = False
    per_condition: bool = False

    def __init__(
        self,
        *widths: int,
        activation: str = "relu",
        dropout: float = 0.0,
        norm: str | None = "rms",
        spectral: bool = False,
        per_condition: bool = False,
    ) -> None:
        if not widths:
            raise ValueError(
                message("MLP(*widths)", "no width", "one int a layer", "For no trunk: trunk=None.")
            )
        for width in widths:
            positive_int("MLP(*widths)", width)
        way_out = "Give a module of your own as trunk for any other."
        a_word("MLP(activation=)", activation, ACTIVATIONS, ACTIVATION_WANTED, way_out)
        if norm is not None:
            a_word("MLP(norm=)", norm, NORMS, "one of rms, layer, batch, or None")
        a_bool("MLP(spectral=)", spectral)
        a_bool("MLP(per_condition=)", per_condition)
        if not 0.0 <= finite_float("MLP(dropout=)", dropout) < 1.0:
            raise ValueError(message("MLP(dropout=)", dropout, "a probability in [0, 1)"))
        object.__setattr__(self, "widths", tuple(widths))
        object.__setattr__(self, "activation", activation)
        object.__setattr__(self, "dropout", float(dropout))
        object.__setattr__(self, "norm", norm)
        if per_condition and norm != "batch":
            got = f"True with norm={norm!r}"
            wanted = 'norm="batch", whose statistics there are to be for each id'
            raise ValueError(message("MLP(per_condition=)", got, wanted))
        object.__setattr__(self, "spectral", spectral)
        object.__setattr__(self, "per_condition", per_condition)

    def __repr__(self) -> str:
        shown = [*map(str, self.widths)]
        shown += [f"activation={self.activation!r}"] if self.activation != "relu" else []
        shown += [f"dropout={self.dropout}"] if self.dropout else []
        shown += [f"norm={self.norm!r}"] if self.norm != "rms" else []
        shown += ["spectral=True"] if self.spectral else []
        shown += ["per_condition=True"] if self.per_condition else []
        return f"MLP({', '.join(shown)})"

    @property
    def needs_ids(self) -> bool:
        return self.per_condition

    @property
    def gain(self) -> float:
        """Factor on `1 / fan_in` that the weights' variance starts with.

        1 / slope² at 0 for tanh and sigmoid. With 1 for sigmoid, as is usual, a layer divides the
        differences between conditions by 4 and keeps what they have in common: after two layers
        of width 100, .8 % of the features' energy varies with the condition, with 16 it is 13 %.
        """
        return {"tanh": 1.0, "identity": 1.0, "sigmoid": 16.0}.get(self.activation, 2.0)

    def out_width(self, in_width: int) -> int:
        return self.widths[-1]

    def inner_fans(self) -> dict[str, int]:
        return {f"{i}.weight": width for i, width in enumerate(self.widths[:-1], start=1)}

    def num_parameters(self, in_width: int, context: int = 0) -> int:
        total = 0
        for width in self.widths:
            total += in_width * width + width + (2 * width if self._affine else 0)
            in_width = width
        return total

    @property
    def _affine(self) -> bool:
        return self.norm in ("layer", "batch")


@dataclass(frozen=True, repr=False)
class CustomTrunk(Trunk):
    """Stands for a trunk module of the user's own.

    Args:
        width: Width `F` of the features that it returns.
        name: What it is, for printing.
        size: Its learned numbers.
        sees_slots: Whether it gets all slots of a condition at once.
    """

    width: int
    name: str = "module"
    size: int = 0
    sees_slots: bool = False

    def __post_init__(self) -> None:
        positive_int("CustomTrunk(width=)", self.width)
        a_string("CustomTrunk(name=)", self.name)
        positive_int("CustomTrunk(size=)", self.size, least=0)
        a_bool("CustomTrunk(sees_slots=)", self.sees_slots)

    @property
    def over_slots(self) -> bool:
        return self.sees_slots

    def out_width(self, in_width: int) -> int:
        return self.width

    def num_parameters(self, in_width: int, context: int = 0) -> int:
        return self.size
