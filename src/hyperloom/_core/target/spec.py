"""What the core knows of a target network: the names, shapes and roles of its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from hyperloom._core.errors import (
    a_bool,
    a_kind,
    a_string,
    did_you_mean,
    message,
    positive_int,
    shown,
    some_ints,
)
from hyperloom._core.records import Role


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a target network.

    Attributes:
        name: Its path in the target, e.g. `"fc.weight"`. A tied tensor has one name, the first.
        shape: Its shape; `()` for a scalar.
        role: What it does in its layer.
        fan_in: Inputs summed into one output of its layer (times the kernel's size for a
            convolution). A bias carries the fan-in of its layer's weight.
        fan_out: Outputs that one input of its layer reaches, likewise.
        layer: Path of the module that owns it; `""` for the target itself.
        mean: Mean of the tensor's own initialisation, 0 when it is centred.
        std: Standard deviation of the tensor's own initialisation; 0 when it starts constant.
        dtype: Name of its dtype, e.g. `"float32"`.
        out_axis: Axis of the outputs, `None` for a tensor without one; a tuple where several axes
            together are the outputs (heads and features of an attention kernel in JAX).
        in_axis: Axis or axes of the inputs, likewise.
        aliases: Other paths at which the target holds the same storage (ties).
        frozen: Whether the target does not train it (`requires_grad=False` in PyTorch; JAX marks
            no parameter so).
    """

    name: str
    shape: tuple[int, ...]
    role: Role = Role.WEIGHT
    fan_in: int = 1
    fan_out: int = 1
    layer: str = ""
    mean: float = 0.0
    std: float = 1.0
    dtype: str = "float32"
    out_axis: int | tuple[int, ...] | None = None
    in_axis: int | tuple[int, ...] | None = None
    aliases: tuple[str, ...] = ()
    frozen: bool = False

    def __post_init__(self) -> None:
        for field in ("name", "layer", "dtype"):
            a_string(f"TensorSpec({field}=)", getattr(self, field))
        a_bool("TensorSpec(frozen=)", self.frozen)
        some_ints("TensorSpec(shape=)", self.shape, "a tuple of ints", least=0)
        a_kind("TensorSpec(role=)", self.role, Role, "a Role")
        positive_int("TensorSpec(fan_in=)", self.fan_in, least=0)
        positive_int("TensorSpec(fan_out=)", self.fan_out, least=0)
        # NaN is refused where a plan is compiled: only there it is known whether the value is used.
        for field in ("mean", "std"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(message(f"TensorSpec({field}=)", shown(value), "a number"))
        for field in ("out_axis", "in_axis"):
            _check_axes(f"TensorSpec({field}=)", getattr(self, field), len(self.shape))
        if not isinstance(self.aliases, (tuple, list)):
            wanted = "a tuple of names"
            raise TypeError(message("TensorSpec(aliases=)", shown(self.aliases), wanted))
        for alias in self.aliases:
            a_string("TensorSpec(aliases=)", alias, "a tuple of names")

    @property
    def numel(self) -> int:
        """Numbers in the tensor; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def names(self) -> tuple[str, ...]:
        """All paths of the tensor, its own name first."""
        return (self.name, *self.aliases)

    @property
    def out_axes(self) -> tuple[int, ...]:
        """The axes of the outputs; empty for none."""
        return _axes(self.out_axis)

    @property
    def in_axes(self) -> tuple[int, ...]:
        """The axes of the inputs; empty for none."""
        return _axes(self.in_axis)

    @property
    def kernel_axes(self) -> tuple[int, ...]:
        """The axes that are neither: the extent of a convolution's kernel."""
        if self.out_axis is None or self.in_axis is None:
            return tuple(range(2, len(self.shape)))
        return tuple(sorted(set(range(len(self.shape))) - {*self.out_axes, *self.in_axes}))

    @property
    def matrix_split(self) -> int:
        """How many leading axes are the rows, when the tensor is read as a matrix.

        Outputs by all others where the outputs come first (PyTorch), all others by outputs where
        they come last (JAX), the first axis by all others elsewhere.
        """
        if self.outputs_last:
            return len(self.shape) - len(self.out_axes)
        return len(self.out_axes) if 0 in self.out_axes else 1

    @property
    def outputs_last(self) -> bool:
        """Whether the outputs are the last axes, behind others: `(in, out)`, as JAX has them."""
        out, num = self.out_axes, len(self.shape)
        return bool(out) and 0 not in out and out == tuple(range(num - len(out), num))

    @property
    def layer_relative_name(self) -> str:
        """The name below its layer, e.g. `"weight"` for `"fc.weight"`."""
        return self.name[len(self.layer) + 1 :] if self.layer else self.name


def _check_axes(argument: str, axis: object, num: int) -> None:
    """Raise unless `axis` is `None`, an axis, or a tuple of axes of a tensor with `num`."""
    wanted = f"None, an axis in 0 .. {num - 1}, or a tuple of them" if num else "None"
    axes = axis if isinstance(axis, (tuple, list)) else () if axis is None else (axis,)
    for one in axes:
        if isinstance(one, bool) or not isinstance(one, int):
            raise TypeError(message(argument, shown(axis), wanted))
        if not 0 <= one < num:
            raise ValueError(message(argument, shown(axis), wanted))


def _axes(axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if axis is None:
        return ()
    return (axis,) if isinstance(axis, int) else axis


@dataclass(frozen=True)
class TargetSpec:
    """All tensors of a target network, in the target's own order.

    Attributes:
        name: Class name of the target, for printing.
        tensors: Its tensors; each storage once.
    """

    name: str
    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        a_string("TargetSpec(name=)", self.name)
        if not isinstance(self.tensors, (tuple, list)):
            got = shown(self.tensors)
            raise TypeError(message("TargetSpec(tensors=)", got, "a tuple of TensorSpec"))
        for tensor in self.tensors:
            a_kind("TargetSpec(tensors=)", tensor, TensorSpec, "a tuple of TensorSpec")
        object.__setattr__(self, "tensors", tuple(self.tensors))
        if not self.tensors:
            raise ValueError(
                message(
                    "target",
                    f"{self.name}, which has no parameters",
                    "a network with at least one parameter to generate",
                    "Build its layers before it is given to the hypernetwork.",
                )
            )
        empty = [t.name for t in self.tensors if t.numel == 0]
        if empty:
            raise ValueError(
                message("target", f"{self.name} with empty tensors {empty}", "tensors with numbers")
            )
        names = [name for tensor in self.tensors for name in tensor.names]
        if len(set(names)) != len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            raise ValueError(message("target", f"the names {twice} twice", "each name once"))

    @property
    def num_parameters(self) -> int:
        """Numbers in all tensors, tied ones once."""
        return sum(tensor.numel for tensor in self.tensors)

    def __iter__(self) -> Iterator[TensorSpec]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, name: str) -> TensorSpec:
        tensor = self._by_name.get(name) if isinstance(name, str) else None
        if tensor is None:
            way_out = did_you_mean(name, self._by_name)
            raise KeyError(message("name", shown(name), f"a tensor of {self.name}", way_out))
        return tensor

    @cached_property
    def _by_name(self) -> dict[str, TensorSpec]:
        return {name: tensor for tensor in self.tensors for name in tensor.names}

    def differences(self, other: TargetSpec) -> list[str]:
        """Return in words where `other` differs in names, shapes, dtypes or ties.

        Initial values (`mean`, `std`), what is frozen, and the class name do not count: a trained
        target is the same target.

        Raises:
            TypeError: `other` is no `TargetSpec`.
        """
        a_kind("other", other, TargetSpec, "a TargetSpec")
        mine = {t.name: t for t in self.tensors}
        theirs = {t.name: t for t in other.tensors}
        reasons = [f"{n!r} is missing" for n in mine if n not in theirs]
        reasons += [f"{n!r} is not expected" for n in theirs if n not in mine]
        for name in (n for n in mine if n in theirs):
            a, b = mine[name], theirs[name]
            if a.shape != b.shape:
                reasons.append(f"{name!r} has shape {b.shape}, not {a.shape}")
            if a.dtype != b.dtype:
                reasons.append(f"{name!r} has dtype {b.dtype}, not {a.dtype}")
            if a.aliases != b.aliases:
                reasons.append(f"{name!r} is tied to {b.aliases}, not to {a.aliases}")
        if not reasons and list(mine) != list(theirs):
            reasons.append("the tensors come in another order")
        return reasons


def measured_start(mean: float, std: float, numel: int) -> tuple[float, float]:
    """Return mean and standard deviation of an initialisation, told from one draw of `numel`.

    A centred draw has a mean of about std / sqrt(numel), and of a few numbers often more; only a
    clear offset is kept (about one centred draw in a thousand looks like one). Any other mean is
    taken for noise of the draw: the mean is then 0, and the deviation is measured from there.
    """
    if std <= 1e-6 * abs(mean):
        return mean, 0.0
    clear = (4 + 600 * 6.0 ** (2 - numel)) * std / math.sqrt(numel)
    if abs(mean) > 0.5 * std and abs(mean) > clear:
        return mean, std
    return 0.0, math.hypot(mean, std)


def usual_start(role: Role, fan_in: int) -> tuple[float, float]:
    """Return mean and standard deviation of a tensor that has no values to measure."""
    if role is Role.NORM_SCALE:
        return 1.0, 0.0
    if role is Role.NORM_SHIFT:
        return 0.0, 0.0
    return 0.0, 1.0 if role is Role.EMBEDDING else 1 / math.sqrt(3 * fan_in)
