"""A tensor that stands for one condition's weight in a module that outlives the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyperloom.torch._rules.standin import Generated, Guarded, Modes
from hyperloom.torch._target.placeholder import empty_like
from hyperloom.torch._target.private import without_saving_hooks
from hyperloom.torch._weights.weights import Weight


class Kept:
    """A value that is computed at its first use, in the modes of now, and kept.

    Args:
        make: Computes the value.
        modes: The modes in which `make` runs.
    """

    def __init__(self, make: Callable[[], Any], modes: Modes) -> None:
        self.make, self.modes, self.value = make, modes, None

    def __call__(self) -> Any:
        if self.value is None:
            with without_saving_hooks():
                self.value = self.modes.run(self.make)
        return self.value


class Held(Guarded):
    """A stand-in that generates its weight at its first use, and keeps it."""

    make: Callable[[], Weight]

    @staticmethod
    def waiting(
        make: Callable[[], Weight], shape: Any, dtype: torch.dtype, device: torch.device
    ) -> Held:
        """Return a stand-in for the weight, with conditions hidden, that `make` gives."""
        tensor = empty_like(Held, shape, dtype, device)
        tensor.make, tensor.kind, tensor.modes = make, dtype, Modes.now(device.type)
        return tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        told = _TOLD.get(func)
        if told is not None:
            return told(args[0])
        if func not in _PLAIN:
            for tensor in _waiting(args, kwargs):
                tensor.weight = tensor.make()
        return super().__torch_function__(func, types, args, kwargs)


def _waiting(*trees: Any) -> list[Held]:
    """Return the stand-ins among arguments that have not generated their weights yet."""
    waiting: list[Held] = []
    for tree in trees:
        if isinstance(tree, Held) and "weight" not in vars(tree):
            waiting.append(tree)
        elif isinstance(tree, (tuple, list)):
            waiting += _waiting(*tree)
        elif isinstance(tree, dict):
            waiting += _waiting(*tree.values())
    return waiting


def _get(name: str) -> Any:
    return getattr(Tensor, name).__get__


def _shape(tensor: Held) -> torch.Size:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.shape


def _device(tensor: Held) -> torch.device:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.device


# Told without making the weight.
_TOLD: dict[Any, Callable[[Held], Any]] = {
    _get("device"): _device,
    _get("shape"): _shape,
    _get("ndim"): lambda tensor: len(_shape(tensor)),
    Tensor.dim: lambda tensor: len(_shape(tensor)),
    Tensor.numel: lambda tensor: _shape(tensor).numel(),
    Tensor.__len__: lambda tensor: _shape(tensor)[0],
    Tensor.__hash__: id,
    Tensor.__repr__: lambda tensor: f"<generated, {tuple(_shape(tensor))}, {tensor.kind}>",
}
_PLAIN = {
    *(_get(name) for name in ("dtype", "is_sparse", "is_nested", "is_quantized", "layout")),
    *(Tensor.is_floating_point, Tensor.is_complex, Tensor.__deepcopy__),
}


def real(leaf: Any) -> Any:
    """Return the tensor that a stand-in stands for, and anything else as it is."""
    if not isinstance(leaf, Held):
        return leaf
    for tensor in _waiting(leaf):
        tensor.weight = tensor.make()
    return leaf.modes.run(lambda: leaf.weight.dense().to(leaf.kind))


__all__ = ["Generated", "Held", "Kept", "real"]
