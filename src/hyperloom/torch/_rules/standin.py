"""A tensor that stands for a generated weight inside an unmodified module.

A module that calls `F.linear(x, self.weight, self.bias)` reaches the method of the weight for that
function; any other use gets the dense tensor. It works inside `vmap` only, which hides conditions.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperloom.torch._rules.registry import WEIGHT, rule
from hyperloom.torch._target.functions import refuse_in_function
from hyperloom.torch._target.placeholder import PlaceholderError, empty_like
from hyperloom.torch._weights.weights import Dense, Weight


class Modes(NamedTuple):
    """Whether gradients are taken, and what autocast does on a device."""

    grad: bool
    inference: bool
    autocast: bool
    low: torch.dtype
    device: str

    @staticmethod
    def now(device: str) -> Modes:
        """Return the modes that are in force."""
        low, cast = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        inference = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
        return Modes(torch.is_grad_enabled(), inference, cast, low, device)

    def run(self, function: Callable[[], Any]) -> Any:
        """Run a function in these modes."""
        if self == Modes.now(self.device):
            return function()
        autocast = torch.autocast(self.device, self.low, self.autocast)
        if torch.compiler.is_compiling():  # a graph knows no inference mode
            with autocast, torch.set_grad_enabled(self.grad):
                return function()
        # In this order: to leave or enter inference mode sets what becomes of gradients.
        with torch.inference_mode(self.inference), torch.set_grad_enabled(self.grad), autocast:
            return function()


class Generated(Tensor):
    """Stands for a `Weight`: a shape and a dtype, numbers on demand."""

    weight: Weight
    kind: torch.dtype
    modes: Modes

    @staticmethod
    def of(weight: Weight, dtype: torch.dtype) -> Generated:
        """Return a stand-in for a weight whose conditions are hidden."""
        # A graph has no other tensors without numbers. (torch.export with strict=False runs the
        # code itself, and so makes stand-ins as any call does.)
        if torch.compiler.is_dynamo_compiling():
            tensor = torch.empty(weight.shape, dtype=dtype, device="meta").as_subclass(Generated)
        else:
            tensor = empty_like(Guarded, weight.shape, dtype, weight.owned[0].device)
        tensor.weight = weight
        tensor.kind = dtype
        tensor.modes = Modes.now(weight.owned[0].device.type)
        return tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SHAPE_ONLY:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if not torch.is_grad_enabled():
            given = (*args, *kwargs.values())
            refuse_in_function(any(isinstance(a, Generated) and a.modes.grad for a in given))
        known = WEIGHT.get(func)
        if known is not None:
            return known(*args, **kwargs)
        return func(*_dense(args), **_dense(kwargs))


class Guarded(Generated):
    """A stand-in that raises where code that does not come to `__torch_function__` uses it.

    Scripted functions, and transforms inside the target. Graphs do without: torch.compile traces
    everything, and takes no such class.
    """

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise PlaceholderError(
            f"code that PyTorch's overrides do not reach uses a generated tensor ({func.name()})"
        )


def _dense(tree: Any) -> Any:
    """Replace stand-ins by dense tensors, in tuples, lists and dicts.

    The stand-in is dense from then on: code that writes into what it got must see its writes.
    """
    if isinstance(tree, Generated):
        weight = tree.weight
        weight.note("other", "dense")
        if not isinstance(weight, Dense):
            # It is kept: what is in force where it is read first must not matter.
            value = tree.modes.run(lambda: weight.dense().to(tree.kind))
            tree.weight = weight = Dense(weight.name, weight.shape, weight.num, value, lead=0)
        return weight.value
    if isinstance(tree, (tuple, list)):
        items = [_dense(item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, dict):
        return {key: _dense(value) for key, value in tree.items()}
    return tree


def dense_tree(tree: Any) -> Any:
    """Replace stand-ins by dense tensors, in tuples, lists and dicts."""
    return _dense(tree)


def dense_leaf(tensor: Tensor) -> Tensor:
    """Return the dense tensor of a stand-in, and any other tensor as it is."""
    return _dense(tensor)


def as_autocast(x: Tensor) -> Tensor:
    """Convert as autocast would; inside vmap it does not for convolutions (torch 2.13)."""
    kind = x.device.type
    convertible = x.is_floating_point() and x.dtype != torch.float64
    if not convertible or not torch.is_autocast_enabled(kind):
        return x
    return x.to(torch.get_autocast_dtype(kind))


_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def without_override_check(function: Any, **replaced: Any) -> Any:
    """Return a copy of a Python function of torch that does not look for overrides again.

    The functions that it calls then see the stand-ins, and their rules apply; a call of the
    function itself would come straight back here. `replaced` stands in for functions it calls.
    """
    scope = {**function.__globals__, **dict.fromkeys(_CHECKS, lambda *_: False), **replaced}
    copied = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


# Told without asking the tensor: torch.compile would come back here to answer, for ever.
@rule(Tensor.device.__get__, when=WEIGHT)  # type: ignore[attr-defined]
def _device(tensor: Generated) -> torch.device:
    return tensor.weight.owned[0].device


@rule(Tensor.dtype.__get__, when=WEIGHT)  # type: ignore[attr-defined]
def _dtype(tensor: Generated) -> torch.dtype:
    return tensor.kind


@rule(Tensor.shape.__get__, when=WEIGHT)  # type: ignore[attr-defined]
def _shape(tensor: Generated) -> torch.Size:
    return tensor.weight.shape


@rule(Tensor.ndim.__get__, Tensor.dim, when=WEIGHT)  # type: ignore[attr-defined]
def _ndim(tensor: Generated) -> int:
    return len(tensor.weight.shape)


@rule(Tensor.size, when=WEIGHT)
def _size(tensor: Generated, dim: int | None = None) -> Any:
    return tensor.weight.shape if dim is None else tensor.weight.shape[dim]


@rule(Tensor.numel, when=WEIGHT)
def _numel(tensor: Generated) -> int:
    return tensor.weight.shape.numel()


@rule(Tensor.is_floating_point, when=WEIGHT)
def _is_floating_point(tensor: Generated) -> bool:
    return tensor.kind.is_floating_point


@rule(Tensor.is_complex, when=WEIGHT)
def _is_complex(tensor: Generated) -> bool:
    return tensor.kind.is_complex


@rule(Tensor.__len__, when=WEIGHT)
def _len(tensor: Generated) -> int:
    return tensor.weight.shape[0]


_SHAPE_ONLY = {
    Tensor.is_sparse.__get__,  # type: ignore[attr-defined]
    Tensor.is_nested.__get__,  # type: ignore[attr-defined]
    Tensor.is_quantized.__get__,  # type: ignore[attr-defined]
    Tensor.layout.__get__,  # type: ignore[attr-defined]
}
