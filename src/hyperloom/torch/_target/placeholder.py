"""Tensors without numbers, which raise at any use.

A meta tensor is no safety net: a product of a CPU tensor and a meta tensor gives uninitialised
memory, without an error (torch 2.13). Code that reaches a tensor past its module (a list of
weights, a scripted function, a transform inside the target) would compute with that.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

_make: Any = Tensor._make_wrapper_subclass  # pyright: ignore[reportAttributeAccessIssue]


class PlaceholderError(RuntimeError):
    """A tensor without numbers was used."""


def empty_like(kind: type[Tensor], shape: Any, dtype: torch.dtype, device: Any) -> Any:
    """Return a tensor of a subclass with a shape and a dtype, and no memory."""
    return _make(kind, torch.Size(shape), dtype=dtype, device=device)


class Placeholder(Tensor):
    """A tensor of the target's skeleton: a shape, a dtype, and no numbers."""

    @staticmethod
    def of(tensor: Tensor, dtype: torch.dtype | None = None) -> Placeholder:
        """Return a placeholder for a tensor."""
        return empty_like(Placeholder, tensor.shape, dtype or tensor.dtype, "meta")

    # Straight on to the dispatcher: scripted functions and transforms come no other way.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:  # `nn.Parameter(placeholder)` calls it
            return Placeholder.of(args[0])
        raise PlaceholderError(
            f"it uses a tensor by another way than its module ({func.name()}), where there is a "
            "placeholder"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = Placeholder.of(self)
        memo[id(self)] = (
            copied if not isinstance(self, nn.Parameter) else as_parameter(copied, self)
        )
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        wanted = self.requires_grad if isinstance(self, nn.Parameter) else None
        return _again, (tuple(self.shape), self.dtype, wanted)


class UngeneratedError(PlaceholderError):
    """A tensor was used that no earlier call of the kind has used, and so was not generated."""


class Ungenerated(Tensor):
    """Stands for a generated tensor that calls of a kind do not use: a shape and a dtype.

    Any use raises and is counted: code that catches the error has used it all the same.
    """

    uses: list[str]
    label: str

    @staticmethod
    def of(name: str, shape: Any, dtype: torch.dtype, device: Any, uses: list[str]) -> Ungenerated:
        """Return a stand-in; its uses are noted in `uses`."""
        tensor = empty_like(Ungenerated, shape, dtype, device)
        tensor.label, tensor.uses = name, uses
        return tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _TOLD:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        return _refuse(args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _refuse(args, kwargs)


def _refuse(args: Any, kwargs: Any) -> NoReturn:
    used = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Ungenerated)]
    for tensor in used:
        tensor.uses.append(tensor.label)
    raise UngeneratedError(f"{[tensor.label for tensor in used]} was not generated")


_TOLD = {
    getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "layout")
} | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__, Tensor.is_floating_point}


def as_parameter(tensor: Tensor, like: Tensor) -> nn.Parameter:
    """Return a placeholder as a parameter that is trained if `like` is."""
    return nn.Parameter(tensor, like.requires_grad)


def _again(shape: tuple[int, ...], dtype: torch.dtype, wanted: bool | None) -> Tensor:
    placeholder = empty_like(Placeholder, shape, dtype, "meta")
    return placeholder if wanted is None else nn.Parameter(placeholder, wanted)
