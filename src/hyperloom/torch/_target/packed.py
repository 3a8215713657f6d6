"""Weights that are no float tensors: quantised layers, run as they are.

A layer over integers has no float parameter that a form could change. In the target that a
hypernetwork sees, a linear layer stands in its place, whose weight is applied by running the layer
and has no numbers itself. So a form adds to the layer's output, or scales it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_map_only

from hyperloom._core.choices.structure import Product, Scaled, Shifted
from hyperloom._core.errors import message
from hyperloom._core.plan.plan import Plan
from hyperloom.torch._target.closures import attributes, held, refuse_outside_references
from hyperloom.torch._target.copying import Convert, copy_over, parameter_over, reference_to
from hyperloom.torch._target.placeholder import empty_like

_SIZES = (("in_features", "out_features"), ("infeatures", "outfeatures"))
_OPTIONS = (int, float, str, torch.dtype, type(None))


class PackedError(RuntimeError):
    """A weight was used past the functions of Python."""


class Packed(Tensor):
    """The weight of a layer that is run: a shape `(out, in)` and a dtype.

    It holds no numbers; what is no linear layer asks the layer for them.
    """

    layer: Matrix | Layer

    @staticmethod
    def of(layer: Matrix | Layer, shape: Any, dtype: torch.dtype, device: Any) -> Packed:
        """Return the weight of a layer."""
        packed = empty_like(Packed, shape, dtype, device)
        packed.layer = layer
        return packed

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        if func is Tensor.to:
            return args[0].followed(lambda tensor: tensor.to(*args[1:], **(kwargs or {})))
        if func in _TOLD:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(Packed, Packed.numbers, (args, kwargs or {}))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:  # `nn.Parameter(packed)` calls it
            packed = args[0]
            return Packed.of(packed.layer, packed.shape, packed.dtype, packed.device)
        got = f"{func.name()} of a weight that is packed in its layer"
        raise PackedError(message("weight", got, "F.linear(x, weight)"))

    def numbers(self) -> Tensor:
        """Return the matrix, `(out, in)`: what the layer makes of unit vectors."""
        with torch.no_grad():
            return self.layer(torch.eye(self.shape[1], dtype=self.dtype, device=self.device)).mT

    def followed(self, fn: Convert) -> Packed:
        """Return the weight of the layer over the tensors that `fn` makes of its own."""
        probe = fn(torch.empty(0, dtype=self.dtype, device=self.device))
        if probe.is_meta or (probe.dtype, probe.device) == (self.dtype, self.device):
            return self
        return Packed.of(self.layer.followed(fn), self.shape, probe.dtype, probe.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Packed:
        memo[id(self)] = self  # nobody writes it
        return self

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Packed({tuple(self.shape)}, {self.dtype})"


class Matrix:
    """Applies a tensor whose class knows how linear layers use it, such as torchao's.

    Args:
        tensor: `(out, in)`.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.tensor)

    def followed(self, fn: Convert) -> Matrix:
        """Return the same over what `fn` makes of the tensor."""
        return Matrix(fn(self.tensor))

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors that it holds."""
        yield self.tensor


class Layer:
    """Runs a layer without its bias.

    Args:
        module: The layer.
        bias: What it adds all the same, as it is packed with the weight; or `None`.
    """

    def __init__(self, module: nn.Module, bias: Tensor | None) -> None:
        self.module, self.bias = module, bias

    def __call__(self, x: Tensor) -> Tensor:
        y = self.module(x)
        return y if self.bias is None else y - self.bias

    def followed(self, fn: Convert) -> Layer:
        """Return the same over what `fn` makes of its tensors."""
        module = copy_over(self.module, lambda t: reference_to(t, fn(t.detach())))
        return Layer(module, None if self.bias is None else fn(self.bias))

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors that it holds."""
        yield from self.module.parameters()
        yield from self.module.buffers()


class PackedLinear(nn.Linear):
    """Stands in a target for a layer with a packed weight, whose options are attributes here too.

    Args:
        layer: The layer.
        weight: Its weight.
        bias: Its bias, or `None`.
    """

    def __init__(self, layer: nn.Module, weight: Packed, bias: Tensor | None) -> None:
        nn.Module.__init__(self)
        options = (item for item in vars(layer).items() if isinstance(item[1], _OPTIONS))
        self.__dict__.update(options)
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        if bias is None or isinstance(bias, nn.Parameter):
            self.register_parameter("bias", bias)
        else:
            self.register_buffer("bias", bias)


def unpacked(target: nn.Module, names: Collection[str] | None = None) -> nn.Module:
    """Return a target in which layers with packed weights are linear layers over `Packed`.

    Args:
        target: Any module. It is left as it is; what is returned is over the same memory.
        names: Names of the weights, `"path.weight"`; `None` for all there are.

    Returns:
        The target itself, where there are none; or what is no module, as it is.
    """
    if not isinstance(target, nn.Module):
        return target
    memo: dict[int, Any] = {}
    for path, module in target.named_modules(remove_duplicate=False):
        name = f"{path}.weight" if path else "weight"
        if id(module) not in memo and (names is None or name in names):
            stand_in = _stand_in(module)
            if stand_in is not None:
                memo[id(module)] = stand_in
    if not memo:
        return target
    other = copy_over(target, parameter_over, memo)
    refuse_outside_references(target, other)
    return other


def refuse_formed(plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    """Raise if a form needs the numbers of a packed weight.

    Raises:
        TypeError: It does.
    """
    for entry in plan.entries:
        if not isinstance(tensors[entry.tensor], Packed):
            continue
        structure = entry.form.structure(plan.spec[entry.tensor])
        fits = isinstance(structure, (Product, Scaled)) and entry.form.has_base
        if isinstance(structure, Shifted):
            fits = entry.pieces[0].shape[-1] == 1
        if entry.form.trains_base or not fits:
            got = f"{entry.form} for {entry.tensor!r}, whose numbers are packed in its layer"
            wanted = "a form that adds to the layer's output or scales it"
            way_out = "Use LoRA(rank), Scale(), RankOne() or Shift(), or leave it out of layout."
            raise TypeError(message("form", got, wanted, way_out))


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensors with memory that a tensor is made of."""
    if isinstance(tensor, Packed):
        parts: Any = tensor.layer.tensors()
    elif is_traceable_wrapper_subclass(tensor):
        parts = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
    else:
        yield tensor
        return
    for part in parts:
        yield from plain_tensors(part)


def has_numbers(tensor: Tensor) -> bool:
    """Whether a tensor's numbers stand in memory of its own, one after the other."""
    return not isinstance(tensor, Packed) and not is_traceable_wrapper_subclass(tensor)


def _stand_in(module: nn.Module) -> PackedLinear | None:
    """Return what stands for a layer with a packed weight, `None` for any other module."""
    if isinstance(module, torch.jit.ScriptModule):  # refused by name later
        return None
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if weight is not None and is_traceable_wrapper_subclass(weight) and weight.ndim == 2:
        if type(module).forward is not nn.Linear.forward:
            return None
        matrix = Matrix(weight.detach())
        packed = Packed.of(matrix, weight.shape, weight.dtype, weight.device)
        return PackedLinear(module, packed, None if bias is None else parameter_over(bias))
    sizes = _sizes(module)
    if sizes is None or (weight is not None and weight.is_floating_point()):
        return None
    own = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
    integers = any(t.ndim and not t.is_floating_point() for t in own)
    if not integers and not _script_objects(module):
        return None
    layer, bias = _without_bias(module, sizes[1])
    floats = [t for t in (bias, *own) if t is not None and t.is_floating_point()]
    dtype = floats[0].dtype if floats else torch.get_default_dtype()
    device = own[0].device if own else torch.device("cpu")
    return PackedLinear(module, Packed.of(layer, sizes, dtype, device), bias)


def _without_bias(module: nn.Module, inputs: int) -> tuple[Layer, Tensor | None]:
    """Return a copy of a layer, over its tensors, that adds no bias; and the bias."""
    memo = {id(script): script for script in _script_objects(module)}
    for part in module.modules():
        for _, attribute in attributes(part):
            memo.update((id(t), t) for t in held(attribute) if isinstance(t, Tensor))
    layer = copy_over(module, reference_to, memo)
    for tensors, theirs in (
        (layer._parameters, module._parameters),
        (layer._buffers, module._buffers),
    ):
        if "bias" in tensors:
            tensors["bias"], bias = None, theirs["bias"]
            return Layer(layer, None), None if bias is None else parameter_over(bias)
    # One that is packed with the weight is what the layer returns for zeros.
    with torch.no_grad():
        bias = layer(torch.zeros(1, inputs))[0]
    return (Layer(layer, bias), bias) if bias.any() else (Layer(layer, None), None)


def _sizes(module: nn.Module) -> tuple[int, int] | None:
    """Return the outputs and inputs that a module says it has."""
    for inputs, outputs in _SIZES:
        found = getattr(module, outputs, None), getattr(module, inputs, None)
        if all(isinstance(size, int) and not isinstance(size, bool) for size in found):
            return found  # type: ignore[return-value]
    return None


def _script_objects(module: nn.Module) -> list[Any]:
    """Return what PyTorch's quantised layers pack their weights into."""
    parts = (part for part in (module, *module._modules.values()) if part is not None)
    values = (value for part in parts for value in vars(part).values())
    return [value for value in values if isinstance(value, torch.ScriptObject)]


def _linear(x: Tensor, weight: Packed, bias: Tensor | None = None) -> Tensor:
    y = weight.layer(x)
    return y if bias is None else y + bias


_GET = ("shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_meta", "grad_fn", "grad")
_TOLD = {
    *(getattr(Tensor, name).__get__ for name in (*_GET, "is_leaf", "is_sparse", "is_nested")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__, Tensor.is_floating_point),
    *(Tensor.requires_grad_, Tensor.is_complex, Tensor.element_size, Tensor.is_inference),
    *(Tensor.detach, Tensor.__hash__),
}
