"""A PyTorch module read as a `TargetSpec`."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping

import torch
from torch import nn

from hyperloom._core.errors import message, shown
from hyperloom._core.records import Role
from hyperloom._core.target.spec import TargetSpec, TensorSpec, measured_start, usual_start
from hyperloom.torch._target.networks import Networks
from hyperloom.torch._target.packed import has_numbers
from hyperloom.torch._target.shapes import Shapes

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def target_spec(
    target: nn.Module | Mapping[str, nn.Module], measured: Container[str] | None = None
) -> TargetSpec:
    """Return names, shapes, roles, fans, ties and initial statistics of a module's parameters.

    Parameters that share their storage are one tensor with several names. Initial mean and
    standard deviation are measured on the values that are there; on the meta device, where there
    are none, they follow PyTorch's usual initialisation for the role.

    Args:
        target: Any module with parameters, or a dict of several.
        measured: Names of the tensors to measure; the others follow the usual initialisation too.
            Measuring reads the whole tensor. `None` (default) for all.

    Returns:
        The spec; tensors in the module's own order.

    Raises:
        TypeError: `target` is not a module, has lazy parameters that have no shape yet, or a part
            that was scripted or traced.
        ValueError: It has no parameters, or two that overlap in memory without being equal.
    """
    if measured is not None and not isinstance(measured, (set, frozenset, list, tuple, dict)):
        raise TypeError(message("measured", shown(measured), "names of tensors, or None"))
    if isinstance(target, Mapping):
        target = uncompiled(target)
    if not isinstance(target, nn.Module):
        way_out = "Call the class to make one." if isinstance(target, type) else ""
        raise TypeError(message("target", _kind(target), "a torch.nn.Module", way_out))
    if isinstance(target, Shapes):
        return target.spec()
    _refuse_scripted(target)
    names: dict[object, list[str]] = {}
    owners: dict[object, tuple[nn.Module, str, nn.Parameter]] = {}
    addresses: dict[int, tuple[object, str]] = {}
    for path, module in target.named_modules(remove_duplicate=False):
        for key, parameter in module._parameters.items():
            if parameter is None:
                continue
            name = f"{path}.{key}" if path else key
            storage = _storage(name, parameter)
            _refuse_overlap(name, parameter, storage, addresses)
            names.setdefault(storage, []).append(name)
            owners.setdefault(storage, (module, key, parameter))
    tensors = [
        _tensor_spec(aliases, *owners[storage], measured is None or aliases[0] in measured)
        for storage, aliases in names.items()
    ]
    return TargetSpec(type(target).__name__, tuple(tensors))


def uncompiled(target: nn.Module | Mapping[str, nn.Module]) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or the module itself; a dict as one module.

    Compiled code has the module's own parameters built in; compile the hypernetwork instead.
    """
    if isinstance(target, Mapping):
        return Networks({name: uncompiled(network) for name, network in target.items()})
    wrapped = isinstance(target, nn.Module) and "_orig_mod" in target._modules
    return target._modules["_orig_mod"] or target if wrapped else target


def _refuse_scripted(target: nn.Module) -> None:
    for path, module in target.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            name = getattr(module, "original_name", "module")
            got = f"a {name} that was scripted or traced" + (f" at {path!r}" if path else "")
            wanted = (
                "modules that run in Python: TorchScript reads its own tensors, whatever is given"
            )
            way_out = "Give the module as it was, and torch.compile the hypernetwork."
            raise TypeError(message("target", got, wanted, way_out))


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _storage(name: str, parameter: nn.Parameter) -> object:
    """Return a key that is equal for parameters that are the same memory."""
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise TypeError(
            message(
                "target",
                f"the lazy parameter {name!r}, which has no shape yet",
                "parameters with shapes",
                "Run the target once on an example first.",
            )
        )
    if parameter.device.type == "meta" or not parameter.numel() or not has_numbers(parameter):
        return id(parameter)
    return (
        parameter.device,
        parameter.data_ptr(),
        tuple(parameter.shape),
        parameter.stride(),
        parameter.dtype,
    )


def _refuse_overlap(
    name: str,
    parameter: nn.Parameter,
    storage: object,
    addresses: dict[int, tuple[object, str]],
) -> None:
    """Raise for two parameters that begin at one address but are read differently."""
    if not isinstance(storage, tuple):
        return
    other, first = addresses.setdefault(parameter.data_ptr(), (storage, name))
    if other != storage:
        raise ValueError(
            message(
                "target",
                f"{first!r} and {name!r}, which share memory with different shapes or strides",
                "parameters that are the same tensor or separate ones",
                "Tie them in forward (e.g. weight.t()) instead.",
            )
        )


def _tensor_spec(
    names: list[str], module: nn.Module, key: str, parameter: nn.Parameter, measure: bool
) -> TensorSpec:
    shape = tuple(parameter.shape)
    name = names[0]
    role = _role(module, key, parameter)
    out_axis, in_axis = _axes(module, role, shape)
    fan_in, fan_out = _layer_fans(module, key, role, shape)
    mean, std = _statistics(parameter, role, fan_in) if measure else usual_start(role, fan_in)
    return TensorSpec(
        name=name,
        shape=shape,
        role=role,
        fan_in=fan_in,
        fan_out=fan_out,
        layer=name.rpartition(".")[0],
        mean=mean,
        std=std,
        dtype=str(parameter.dtype).removeprefix("torch."),
        out_axis=out_axis,
        in_axis=in_axis,
        aliases=tuple(names[1:]),
        frozen=not parameter.requires_grad,
    )


def _role(module: nn.Module, key: str, parameter: nn.Parameter) -> Role:
    """Tell the role from the layer's class and the parameter's name and shape."""
    if "norm" in type(module).__name__.lower() and parameter.ndim <= 1:
        return Role.NORM_SHIFT if "bias" in key or "shift" in key else Role.NORM_SCALE
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return Role.EMBEDDING
    if "bias" in key or parameter.ndim < 2:
        return Role.BIAS
    return Role.WEIGHT


def _axes(module: nn.Module, role: Role, shape: tuple[int, ...]) -> tuple[int | None, int | None]:
    if role is Role.WEIGHT:
        return (1, 0) if isinstance(module, _TRANSPOSED) or _is_in_out(module, shape) else (0, 1)
    if role is Role.EMBEDDING:
        return 1, 0
    return (0, None) if shape else (None, None)


def _is_in_out(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a layer is one of transformers' `Conv1D`: linear, with a weight `(in, out)`."""
    kinds = (kind.__name__ for kind in type(module).__mro__)
    return "Conv1D" in kinds and len(shape) == 2 and getattr(module, "nf", None) == shape[1]


def _fans(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """Fan-in and fan-out of a weight of at least two axes."""
    kernel = math.prod(shape[2:])
    if isinstance(module, _TRANSPOSED):
        return shape[0] // module.groups * kernel, shape[1] * kernel
    if _is_in_out(module, shape):
        return shape[0], shape[1]
    if isinstance(module, nn.Bilinear):
        return shape[1] * shape[2], shape[0]
    groups = module.groups if isinstance(module, nn.modules.conv._ConvNd) else 1
    return shape[1] * kernel, shape[0] // groups * kernel


def _layer_fans(module: nn.Module, key: str, role: Role, shape: tuple[int, ...]) -> tuple[int, int]:
    """Fans of the tensor, or for a bias those of the weight beside it in its layer."""
    if role is Role.EMBEDDING:
        return 1, shape[1]
    if role is Role.WEIGHT:
        return _fans(module, shape)
    beside = module._parameters.get(key.replace("bias", "weight"))
    if role is Role.BIAS and "bias" in key and beside is not None and beside.ndim >= 2:
        return _fans(module, tuple(beside.shape))
    return 1, 1


def _statistics(parameter: nn.Parameter, role: Role, fan_in: int) -> tuple[float, float]:
    """Mean and standard deviation at the start; a mean within its own noise counts as 0."""
    real = has_numbers(parameter) and parameter.dtype.is_floating_point
    if parameter.device.type == "meta" or not real:
        return usual_start(role, fan_in)
    if parameter.numel() == 0:  # refused by TargetSpec, by name
        return 0.0, 0.0
    values = parameter.detach()
    values = values.float() if values.itemsize < 4 else values
    variance, center = torch.var_mean(values, correction=0)
    return measured_start(float(center), math.sqrt(float(variance)), parameter.numel())
