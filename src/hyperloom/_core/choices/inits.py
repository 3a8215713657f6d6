"""How generated networks start out: the mean and standard deviation of every tensor.

All rules answer one question, "which variance should this generated tensor have", and the plan
realises the answer in any layout: through the head's rows where a tensor has rows of its own,
through a fixed scale where tensors share them. So every rule holds for every layout, exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hyperloom._core.choice import Choice
from hyperloom._core.errors import a_bool, finite_float
from hyperloom._core.records import Orthogonals, Role, Start
from hyperloom._core.target.spec import TensorSpec


@dataclass(frozen=True, repr=False)
class Init(Choice, open=True):
    """Base class: a rule for the start of generated tensors."""

    def start(self, tensor: TensorSpec, bias_generated: bool) -> Start:
        """Return how `tensor` should start.

        Args:
            tensor: The tensor.
            bias_generated: Whether its layer has a bias that is generated too.
        """
        raise TypeError(f"{type(self).__name__} does not define start()")


@dataclass(frozen=True, repr=False)
class Native(Init):
    """As the target's own initialisation would: the default.

    Mean and standard deviation of each tensor are those of the template, so activations and
    gradients have the scale, layer by layer, that the target has by itself. A tensor that the
    template starts constant (norm scales, zero biases) starts at that constant.
    """

    def start(self, tensor: TensorSpec, bias_generated: bool) -> Start:
        return Start(tensor.mean, tensor.std, measured=True)


@dataclass(frozen=True, repr=False)
class _Hyperfan(Init):
    """What the hyperfan rules share: norms start at 1 and 0, embedding tensors at variance 1.

    Args:
        relu: Whether ReLUs follow the target's layers (doubles the variance). Default True.
    """

    relu: bool = True

    def __post_init__(self) -> None:
        a_bool(f"{type(self).__name__}(relu=)", self.relu)

    def start(self, tensor: TensorSpec, bias_generated: bool) -> Start:
        if tensor.role is Role.NORM_SCALE:
            return Start(1.0, 0.0)
        if tensor.role is Role.NORM_SHIFT:
            return Start(0.0, 0.0)
        if tensor.role is Role.EMBEDDING:
            return Start(0.0, 1.0)
        return Start(0.0, math.sqrt(self.variance(tensor, bias_generated)))

    def variance(self, tensor: TensorSpec, bias_generated: bool) -> float:
        """Return the variance of a generated weight or bias."""
        raise TypeError(f"{type(self).__name__} does not define variance()")

    @property
    def _gain(self) -> float:
        return 2.0 if self.relu else 1.0


@dataclass(frozen=True, repr=False)
class HyperfanIn(_Hyperfan):
    """Keeps the variance of activations: `2^R / (2^B fan_in)` for weights, `2^R / 2` for biases.

    R is 1 with `relu`, B is 1 when the layer's bias is generated too. Chang, Flokas and Lipson,
    "Principled Weight Initialization for Hypernetworks", ICLR 2020.
    """

    def variance(self, tensor: TensorSpec, bias_generated: bool) -> float:
        if tensor.role is Role.BIAS:
            return self._gain / 2
        return self._gain / ((2.0 if bias_generated else 1.0) * tensor.fan_in)


@dataclass(frozen=True, repr=False)
class HyperfanOut(_Hyperfan):
    """Keeps the variance of gradients: `2^R / fan_out`; biases `max(0, 2^R (1 - in / out))`.

    Same paper as `HyperfanIn`.
    """

    def variance(self, tensor: TensorSpec, bias_generated: bool) -> float:
        if tensor.role is Role.BIAS:
            return max(0.0, self._gain * (1 - tensor.fan_in / tensor.fan_out))
        return self._gain / tensor.fan_out


@dataclass(frozen=True, repr=False)
class Harmonic(_Hyperfan):
    """Harmonic mean of the variances of `HyperfanIn` and `HyperfanOut`: `2 / (1/in + 1/out)`.

    Zero where one of them is zero. hypnettorch 0.0.4 computes another formula under this name.
    """

    def variance(self, tensor: TensorSpec, bias_generated: bool) -> float:
        var_in = HyperfanIn(self.relu).variance(tensor, bias_generated)
        var_out = HyperfanOut(self.relu).variance(tensor, bias_generated)
        return 2 / (1 / var_in + 1 / var_out) if var_in and var_out else 0.0


@dataclass(frozen=True, repr=False)
class BiasHyperInit(Init):
    """The head's weight is zero and its bias holds the target's own initial values.

    Every condition starts as exactly the template. Needs rows of its own for each tensor
    (`Full`, `PerCondition`, `Shared`). Beck et al., "Hypernetworks in Meta-Reinforcement
    Learning", CoRL 2022.
    """

    def start(self, tensor: TensorSpec, bias_generated: bool) -> Start:
        return Start(tensor.mean, 0.0, native=True, exact=True)


@dataclass(frozen=True, repr=False)
class Orthogonal(Init):
    """Each generated matrix starts orthogonal: all its singular values are `gain`.

    The matrix is `(outputs, all else)`, as for `torch.nn.init.orthogonal_`, with axes as the
    framework has them. It holds exactly and for every condition: with `Full` the head's bias is
    the matrix and its weight is zero, so all conditions start alike; with `PerCondition` each id
    has a matrix of its own. Biases, norms and embedding tensors start as with `Native`. Needs rows
    of its own for each matrix (`Full`, `PerCondition`, `Shared`). Saxe, McClelland and Ganguli,
    "Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural Networks", ICLR
    2014; for hypernetworks of many agents: Tessera et al., "HyperMARL", 2024.

    Args:
        gain: The singular values. Default 1.

    Raises:
        TypeError: A `gain` that is no number.
        ValueError: A `gain` that is not finite or below 0.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        finite_float("Orthogonal(gain=)", self.gain, least=0.0)

    def start(self, tensor: TensorSpec, bias_generated: bool) -> Start:
        if tensor.role is not Role.WEIGHT or len(tensor.shape) < 2 or not tensor.out_axes:
            return Native().start(tensor, bias_generated)
        matrix = Orthogonals(tensor.shape, tensor.out_axes, self.gain)
        return Start(0.0, 0.0, exact=True, orthogonals=matrix)


@dataclass(frozen=True, repr=False)
class Unscaled(Init):
    """The same variance for every generated number, whatever it is for.

    What a head does that knows nothing of its target. For comparisons, and to take over the
    parameters of another library's hypernetwork: no tensor gets a scale of its own.

    Args:
        std: Standard deviation of the generated numbers. Default 1.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        finite_float("Unscaled(std=)", self.std, least=0.0)

    def start(self, tensor: TensorSpec, bias_generated: bool) -> Start:
        return Start(0.0, self.std)
