"""A native hypernetwork behind each of hypnettorch's, run with parameters from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.torch._generate.trunks import build_trunk

Activation = Callable[[Tensor], Tensor]

_FUNCTIONS: dict[Any, str] = {
    torch.relu: "relu",
    F.relu: "relu",
    torch.tanh: "tanh",
    F.tanh: "tanh",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    None: "identity",
}
_PLAIN: dict[type, str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.Identity: "identity",
}
# Those that a dropout before them does not tell from one after them.
_HOMOGENEOUS = ("relu", "leaky_relu", "identity")


@dataclass(frozen=True)
class Slots:
    """Embeddings beside the condition, one for each run of the generator.

    Attributes:
        size: Numbers that one run gives.
        width: Width of the embeddings.
        per_condition: Whether each condition has its own.
    """

    size: int
    width: int
    per_condition: bool


@dataclass(frozen=True)
class Options:
    """What the generators of hypnettorch have in common.

    Attributes:
        layers: Widths of the hidden layers.
        activation: Activation of the hidden layers, `None` for none.
        use_bias: Whether layers have biases.
        dropout: Probability of dropping a hidden feature; 0 for no dropout.
        batch_norm: Whether hidden layers are batch-normalised.
        spectral_norm: Whether hidden weights are divided by their largest singular value.
    """

    layers: tuple[int, ...]
    activation: Activation | None
    use_bias: bool
    dropout: float
    batch_norm: bool
    spectral_norm: bool


@dataclass
class Numbers:
    """The parameters of one call, by what they are for, in hypnettorch's order of columns.

    Attributes:
        weights: `(out, in)` of each fully connected layer, the head's last.
        biases: Theirs, or empty.
        norms: Scale, shift, running mean and variance of each hidden layer, or empty.
        slots: `(C, w)`, or `(B, C, w)`, or `None`.
    """

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    norms: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]] = ()
    slots: Tensor | None = None


class Generator:
    """A native hypernetwork without numbers of its own.

    Args:
        shapes: Shapes of the tensors to generate.
        widths: Widths of unconditional and conditional input.
        options: The trunk.
        dropout: The module that drops, whose mode says when.
        slots: For generators that are run several times.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        widths: tuple[int, int],
        options: Options,
        dropout: nn.Module | None = None,
        slots: Slots | None = None,
    ) -> None:
        self.widths, self.options, self.slots = widths, options, slots
        parts: list[Any] = [hl.Vector(width) for width in widths if width]
        if slots is not None and slots.per_condition:
            parts.append(hl.Ids(1))
        layout: Any = hl.Full()
        if slots is not None:
            layout = hl.Chunked(slots.size, slots.width, slots.per_condition, signs=False)
        self.names = [f"condition.parts.{i}" for i in range(len(parts))]
        self.names = self.names if len(parts) > 1 else ["condition"]
        self.trunk = ""
        in_width = sum(widths) + (slots.width if slots else 0)
        with torch.device("meta"):  # no memory, no time, no random draws
            self.native = hl.HyperNetwork(
                hl.Shapes(shapes),
                condition=hl.Concat(*parts) if len(parts) > 1 else parts[0],
                trunk=self._trunk(in_width, dropout),
                layout=layout,
                init=hl.Unscaled(),
            )
        self.head = f"heads.{self.native.plan.heads[0].name}"

    def _trunk(self, in_width: int, dropout: nn.Module | None) -> Any:
        options = self.options
        if not options.layers:
            return None
        name = activation_name(options.activation)
        late = dropout is not None and name not in _HOMOGENEOUS
        choice = hl.MLP(
            *options.layers,
            activation=name or "identity",
            dropout=0.0 if late else options.dropout,
            norm="batch" if options.batch_norm else None,
            spectral=options.spectral_norm,
        )
        self.trunk = "trunks.0."
        if name is not None and not late:
            return choice
        self.trunk = "trunks.0.module.inner."
        fn = options.activation or nn.Identity()
        return _OwnActivation(choice, in_width, _Steps(dropout, fn) if late else _Steps(None, fn))

    def run(
        self, uncond: Tensor | None, cond: Tensor | None, numbers: Numbers, training: bool
    ) -> list[Tensor]:
        """Generate tensors `(B, *shape)`.

        Args:
            uncond: `(B, widths[0])`, or `None`.
            cond: `(B, widths[1])`, or `None`.
            numbers: The parameters.
            training: Whether dropout drops and batch norm uses the batch.
        """
        like = numbers.weights[-1]
        if self._dtype() != like.dtype:
            self.native.to(like.dtype)
        self.native.train(training)
        values = [x for x in (uncond, cond) if x is not None]
        given = self._given(numbers, like)
        if self.slots is not None and self.slots.per_condition:
            assert numbers.slots is not None
            values.append(torch.arange(len(numbers.slots), device=like.device))
            given[f"{self.names[-1]}.table.0"] = like.new_empty(len(numbers.slots), 0)
        for name, value in zip(self.names, values, strict=True):
            if value.is_floating_point():
                given[f"{name}.like"] = like.new_zeros(())
        raw: Any = tuple(values) if len(values) > 1 else values[0]
        return list(self.native.generate(raw, parameters=given).values())

    def _dtype(self) -> torch.dtype:
        return next(iter(self.native.parameters())).dtype

    def _given(self, numbers: Numbers, like: Tensor) -> dict[str, Tensor]:
        """Return the native names of the parameters."""
        weights, biases = list(numbers.weights), list(numbers.biases)
        if not biases:
            # No bias is a bias of zeros.
            biases = [like.new_zeros(1).expand(len(w)) for w in weights]
        if self.slots is not None:
            weights[0] = self._slots_last(weights[0])
        size = self.native.plan.heads[0].slot_size
        given = {
            f"{self.head}.weight": weights[-1][:size],
            f"{self.head}.bias": biases[-1][:size],
        }
        for i, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            given[f"{self.trunk}{i}.weight"] = weight
            given[f"{self.trunk}{i}.bias"] = bias
        for i, norm in enumerate(numbers.norms):
            keys = ("norm_weight", "norm_bias", "norm_mean", "norm_var")
            given.update({f"{self.trunk}{i}.{k}": t for k, t in zip(keys, norm, strict=True)})
        if numbers.slots is not None:
            own = ".0" if self.slots is not None and self.slots.per_condition else ""
            given[f"{self.head}.slots{own}"] = numbers.slots
        return given

    def _slots_last(self, weight: Tensor) -> Tensor:
        """Bring the columns of the first layer into native order: embeddings last.

        hypnettorch's order is unconditional input, chunk embedding, conditional input.
        """
        assert self.slots is not None
        if not self.widths[1]:
            return weight
        cuts = weight.split([self.widths[0], self.slots.width, self.widths[1]], dim=1)
        return torch.cat([cuts[0], cuts[2], cuts[1]], dim=1)


class _Steps:
    """Dropout before the activation, which is where hypnettorch has it."""

    def __init__(self, dropout: nn.Module | None, activation: Activation) -> None:
        self.dropout, self.activation = dropout, activation

    def __call__(self, x: Tensor) -> Tensor:
        return self.activation(x if self.dropout is None else self.dropout(x))


class _OwnActivation(nn.Module):
    """A native trunk with an activation that has no name."""

    def __init__(self, choice: hl.MLP, in_width: int, activation: Activation) -> None:
        super().__init__()
        self.inner: Any = build_trunk(choice, in_width)
        self.dim = choice.widths[-1]
        for layer in self.inner:
            layer.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, None)


def activation_name(activation: Any) -> str | None:
    """Return the native name of an activation, `None` for one that has none."""
    if activation is None or not isinstance(activation, nn.Module):
        return _FUNCTIONS.get(activation)
    own: Any = activation
    if isinstance(own, nn.ELU) and own.alpha == 1.0:
        return "elu"
    if isinstance(own, nn.LeakyReLU) and own.negative_slope == 0.01:
        return "leaky_relu"
    if isinstance(own, nn.GELU) and own.approximate == "none":
        return "gelu"
    if isinstance(own, nn.Softplus) and (own.beta, own.threshold) == (1.0, 20.0):
        return "softplus"
    return _PLAIN.get(type(own))


def probability(rate: float) -> float:
    """Return the probability that hypnettorch's `dropout_rate` means; -1 and 1 are none."""
    if rate in (-1, 1):
        return 0.0
    require(0 < rate < 1, f"dropout_rate: got {rate}; wanted a number in (0, 1), or 1 for none.")
    return float(rate)
