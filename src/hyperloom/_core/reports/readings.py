"""What `doctor()` measures and what it finds: plain numbers and words, from any backend."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    FAULT = "fault"  # it cannot learn, or gives wrong or useless numbers
    WARNING = "warning"  # wrong in most cases
    NOTE = "note"  # as asked for, or not checked


CHECKS = (
    "values",
    "gradient",
    "condition",
    "scale",
    "step",
    "agreement",
    "dtype",
    "speed",
    "call",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `doctor()` found.

    Attributes:
        level: How bad it is.
        check: Which check found it: `values`, `gradient`, `condition`, `scale`, `step`,
            `agreement`, `dtype`, `speed`, or `call`.
        where: Names of the parts, tensors or layers; empty where it is about the whole.
        text: What is wrong and what it comes from, a sentence.
    """

    level: Level
    check: str
    where: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class PartReading:
    """One learned array of the generator.

    Attributes:
        name: Its name among the hypernetwork's parameters.
        shape: Its shape.
        dtype: Name of its dtype.
        device: Name of its device.
        trains: Whether it asks for a gradient.
        finite: Whether it holds finite numbers only.
        dead: All its numbers are zero where the plan starts them at random.
        alike: Its rows should differ (embeddings), and are all the same.
        starts_zero: The plan starts its numbers at zero, for a change that grows from nothing.
        idle: Why this call has no use for it, e.g. rows of other ids; empty if it has.
        gradient: Root mean square of its gradient; `None` where none arrives.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    trains: bool
    finite: bool
    dead: bool
    alike: bool
    starts_zero: bool
    idle: str
    gradient: float | None


@dataclass(frozen=True, slots=True)
class TensorReading:
    """One generated tensor.

    Attributes:
        name: Its name in the target.
        rms: Root mean square of its numbers.
        native: The same for the template's own initialisation.
        native_std: Standard deviation of the template's own initialisation (of the base, where
            there is one).
        varies: Difference between conditions, relative to `rms`; `None` where not checked.
        shared: One tensor for all conditions, as the layout asks for.
        starts_constant: The plan starts it alike for all conditions.
        change: Root mean square of the change to its base, relative to the base; `None` without.
        attached: Whether the generator gives it with a gradient.
        gradient: Root mean square of the gradient that the target gives it; `None` for none.
        used: Whether the outputs change with it; `None` where not checked.
        step: How far one step of the optimiser moves it, relative to the spread of its numbers;
            `None` without an optimiser, or where the template starts it as a constant.
        native_step: The same for a plain network.
    """

    name: str
    rms: float
    native: float
    native_std: float
    varies: float | None
    shared: bool
    starts_constant: bool
    change: float | None
    attached: bool
    gradient: float | None
    used: bool | None = None
    step: float | None = None
    native_step: float | None = None


@dataclass(frozen=True, slots=True)
class LayerReading:
    """The output of one layer of the target, and the gradient there, beside the native ones.

    Attributes:
        name: Path of the layer.
        kind: Its class.
        activation: Root mean square of its output with generated tensors.
        native_activation: The same with tensors drawn as the template's own.
        gradient: Root mean square of the gradient of its output.
        native_gradient: The same with tensors drawn as the template's own.
    """

    name: str
    kind: str
    activation: float
    native_activation: float
    gradient: float
    native_gradient: float


@dataclass(frozen=True, slots=True)
class StepReading:
    """One step of the optimiser that was given.

    Attributes:
        optimizer: Its class name.
        lost: Parameters of the hypernetwork that are in none of its groups.
        grows: Whether the step grows with the gradient, as that of plain gradient descent does:
            its size for the gradients measured here says nothing about another loss.
        unmeasured: Why no step was taken; empty if one was.
    """

    optimizer: str
    lost: tuple[str, ...] = ()
    grows: bool = False
    unmeasured: str = ""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two runs that should have given the same, and did not.

    Attributes:
        than: What the call was compared with, in words.
        what: What differs: `outputs`, or `gradients`.
        where: Names of the parameters whose gradients differ; empty for outputs.
        by: The largest difference relative to what is right; infinite where shapes differ, or
            where one of both is not finite.
    """

    than: str
    what: str
    where: tuple[str, ...]
    by: float


@dataclass(frozen=True)
class Readings:
    """All that a backend measured in one run.

    Attributes:
        target: Class name of the target.
        conditions: Conditions in the batch.
        parts: The learned arrays.
        tensors: The generated tensors.
        layers: The target's layers.
        stages: How much each stage differs between conditions, from the condition vectors to the
            outputs; `None` where not checked, with the reason under `unchecked`.
        tolerance: Relative difference up to which two numbers count as the same.
        unchecked: Why the dependence on the condition was not checked; empty if it was.
        strategy: How the call was run, and why.
        slow: What ran on a slow path, in words.
        dtypes: Dtypes of the outputs, and those of the plain module.
        kept: Tensors that stay the target's own.
        step: The step of the optimiser; `None` if none was given.
        disagreements: Runs that should have given the same as the call, and did not.
        cuts: What cuts a gradient in the backend's words: on the way through the generator, and
            in the target's forward.
        warnings: Warnings that the call raised.
        errors: What could not be run, in words.
    """

    target: str
    conditions: int
    parts: tuple[PartReading, ...] = ()
    tensors: tuple[TensorReading, ...] = ()
    layers: tuple[LayerReading, ...] = ()
    stages: tuple[tuple[str, float | None], ...] = ()
    tolerance: float = 1e-6
    unchecked: str = ""
    strategy: str = ""
    slow: tuple[str, ...] = ()
    dtypes: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    kept: tuple[str, ...] = ()
    step: StepReading | None = None
    disagreements: tuple[Disagreement, ...] = ()
    cuts: tuple[str, str] = (
        ".detach(), .data, no_grad, a copy into a parameter",
        ".data, .detach(), no_grad",
    )
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inside:
    """What was read inside the target.

    Attributes:
        tensors: The readings given, with the gradients that the target gives them.
        layers: One for each layer with parameters.
        dtypes: Dtypes of the plain network's outputs.
        errors: What could not be run.
    """

    tensors: tuple[TensorReading, ...]
    layers: tuple[LayerReading, ...]
    dtypes: tuple[str, ...]
    errors: tuple[str, ...]
