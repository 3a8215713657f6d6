"""A module, of NNX, Linen or Equinox, or a tree of arrays, read as a `TargetSpec`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperloom._core.records import Role
from hyperloom._core.target.spec import TensorSpec, measured_start, usual_start
from hyperloom.jax._target.variables import is_traced

Axes = int | tuple[int, ...] | None


def tensor_spec(
    names: Sequence[str], layer: object, siblings: Mapping[str, tuple[int, ...]], value: Any
) -> TensorSpec:
    """Return what there is to know of one parameter.

    Args:
        names: Its dotted paths, its own name first.
        layer: The module that owns it; its class and options tell the role. Of a plain container
            the last name of its path does.
        siblings: Shapes of all parameters of that module, by their names in it.
        value: The array, or its shape and dtype where it has no values yet.
    """
    path, _, leaf = names[0].rpartition(".")
    shape = tuple(value.shape)
    role = _role(layer, path.rpartition(".")[2], leaf, siblings)
    out_axis, in_axis = _axes(layer, role, shape)
    fan_in, fan_out = _fans(layer, leaf, role, shape, siblings)
    mean, std = _statistics(value, role, fan_in)
    return TensorSpec(
        name=names[0],
        shape=shape,
        role=role,
        fan_in=fan_in,
        fan_out=fan_out,
        layer=path,
        mean=mean,
        std=std,
        dtype=str(jnp.dtype(value.dtype)),
        out_axis=out_axis,
        in_axis=in_axis,
        aliases=tuple(names[1:]),
    )


def _role(layer: object, name: str, leaf: str, siblings: Mapping[str, tuple[int, ...]]) -> Role:
    """Tell the role from the layer's class and the parameter's name and shape."""
    plain = layer is None or isinstance(layer, (Mapping, Sequence))
    kind = (name if plain else type(layer).__name__).lower()
    shape, alone = siblings[leaf], max(map(len, siblings.values())) < 2
    if ("norm" in kind and "kernel" not in leaf) or (plain and alone and leaf in _NORM):
        shifts = any(word in leaf for word in ("bias", "shift", "offset", "beta"))
        return Role.NORM_SHIFT if shifts or leaf == "b" else Role.NORM_SCALE
    if kind.startswith("embed") or leaf == "embedding":
        return Role.EMBEDDING if len(shape) == 2 else Role.WEIGHT
    if "bias" in leaf or len(shape) < 2:
        return Role.BIAS
    return Role.WEIGHT


_NORM = ("scale", "gamma", "shift", "offset", "beta")


def _is_equinox(layer: object) -> bool:
    """Whether a layer is an Equinox module: its weights are `(out, in, *kernel)`."""
    return any(kind.__module__.partition(".")[0] == "equinox" for kind in type(layer).__mro__)


def _axes(layer: object, role: Role, shape: tuple[int, ...]) -> tuple[Axes, Axes]:
    """Return the axes of the outputs and of the inputs."""
    num = len(shape)
    if role is Role.EMBEDDING:
        return 1, 0
    if role is not Role.WEIGHT:
        return _few(tuple(range(num))), None
    if _is_equinox(layer):
        return 0, 1
    kind = type(layer).__name__
    if kind in ("LinearGeneral", "DenseGeneral"):
        batch = len(_tuple(getattr(layer, "batch_axis", getattr(layer, "batch_dims", ()))))
        stop = batch + len(_tuple(getattr(layer, "axis", -1)))
        return _few(tuple(range(stop, num))), _few(tuple(range(batch, stop)))
    if getattr(layer, "transpose_kernel", False):
        return num - 2, num - 1
    return num - 1, num - 2


def _fans(
    layer: object,
    leaf: str,
    role: Role,
    shape: tuple[int, ...],
    siblings: Mapping[str, tuple[int, ...]],
) -> tuple[int, int]:
    """Fans of the tensor, or for a bias those of the kernel beside it in its layer."""
    if role is Role.EMBEDDING:
        return 1, shape[1]
    if role is Role.BIAS:
        kernel = _kernel_of(leaf, shape, siblings)
        return _fans(layer, "kernel", Role.WEIGHT, kernel, {}) if len(kernel) >= 2 else (1, 1)
    if role is not Role.WEIGHT:
        return 1, 1
    out, into = (_axis_tuple(axis) for axis in _axes(layer, role, shape))
    outputs, inputs = (math.prod(shape[i] for i in axes) for axes in (out, into))
    if not type(layer).__name__.startswith("Conv"):
        return inputs, outputs  # other axes count layers of a stack, or positions
    extent = math.prod(shape) // (inputs * outputs)
    groups = int(getattr(layer, "feature_group_count", getattr(layer, "groups", 1)))
    return inputs * extent, outputs // groups * extent


def _kernel_of(
    leaf: str, shape: tuple[int, ...], siblings: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """Return the shape of the weight that a bias belongs to; `()` for none."""
    named = siblings.get(leaf.replace("bias", "kernel"), ())
    if "bias" in leaf and len(named) >= 2:
        return named
    size = math.prod(shape)
    weights = [s for n, s in siblings.items() if len(s) >= 2 and n != leaf]
    fitting = [s for s in weights if size in s]
    return (fitting or weights or [()])[0]


def _statistics(value: Any, role: Role, fan_in: int) -> tuple[float, float]:
    """Mean and standard deviation at the start."""
    unknown = isinstance(value, jax.ShapeDtypeStruct) or is_traced(value)
    if unknown or not jnp.issubdtype(value.dtype, jnp.floating):
        return usual_start(role, fan_in)
    if not value.size:  # refused by TargetSpec, by name
        return 0.0, 0.0
    numbers = np.asarray(value, np.float64)
    return measured_start(float(numbers.mean()), float(numbers.std()), numbers.size)


def _few(axes: tuple[int, ...]) -> Axes:
    """Return axes as a spec has them."""
    if not axes:
        return None
    return axes[0] if len(axes) == 1 else axes


def _axis_tuple(axis: Axes) -> tuple[int, ...]:
    return axis if isinstance(axis, tuple) else () if axis is None else (axis,)


def _tuple(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Mapping):
        return tuple(value)
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
