"""Copies of modules over other tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.errors import message, shown
from hyperloom._core.target.spec import TargetSpec
from hyperloom.torch._target.closures import attributes, held

Convert = Callable[[Tensor], Tensor]


def tie(module: nn.Module, spec: TargetSpec) -> nn.Module:
    """Make names that share storage in the target share one parameter again."""
    for tensor in spec:
        path, _, key = tensor.name.rpartition(".")
        parameter = module.get_submodule(path)._parameters[key]
        for alias in tensor.aliases:
            path, _, key = alias.rpartition(".")
            module.get_submodule(path)._parameters[key] = parameter
    return module


def copy_with(module: nn.Module, value: Convert) -> nn.Module:
    """Deep-copy a module with every parameter and buffer replaced by `value` of it.

    The original tensors are never copied, so a large target costs no memory.
    """

    def convert(tensor: Tensor) -> Tensor:
        new = value(tensor)
        if not isinstance(tensor, nn.Parameter):
            return new
        own = reference_to(new)
        if not isinstance(own, nn.Parameter):
            own = nn.Parameter(own, tensor.requires_grad)
            vars(own).update(vars(new))
        return own.requires_grad_(tensor.requires_grad)

    return _copied(module, convert, {})


def copy_over(
    module: nn.Module, value: Convert, given: Mapping[int, Any] | None = None
) -> nn.Module:
    """Deep-copy a module over given tensors, which stand in the copy as they are.

    Args:
        module: The module.
        value: Returns for each parameter and buffer the tensor to put in its place.
        given: What stands in the copy for other objects, by `id`.
    """
    return _copied(module, value, dict(given or {}))


def reference_to(tensor: Tensor, value: Tensor | None = None) -> Tensor:
    """Return a tensor over the memory of another: its values, class and attributes.

    Without its gradient: what is kept of a target is not trained.

    Args:
        tensor: The other.
        value: What it shall be over in the place of that memory.
    """
    value = tensor.detach() if value is None else value
    if type(tensor) is not nn.Parameter and type(value) is not type(tensor):
        value = value.as_subclass(type(tensor))
    for name, attribute in vars(tensor).items():
        setattr(value, name, attribute)
    return value


def parameter_over(tensor: Tensor) -> Tensor:
    """Return a tensor over the memory of another, a parameter if that is one."""
    value = reference_to(tensor)
    if not isinstance(tensor, nn.Parameter) or isinstance(value, nn.Parameter):
        return value.requires_grad_(tensor.requires_grad)
    parameter = nn.Parameter(value, tensor.requires_grad)
    vars(parameter).update(vars(value))
    return parameter


class SharedCopy:
    """A copy of a module over given tensors, for one call: all else is the module's own.

    What the attributes hold is shared, so that what the call keeps is kept in the module: lists
    that it appends to, objects that count. Only what reaches tensors or modules of the module is
    copied.

    Args:
        module: The module.
        value: Returns for each parameter and buffer the tensor to put in its place; it stands
            there as it is, with its gradient.
    """

    def __init__(self, module: nn.Module, value: Convert) -> None:
        ids = {id(part) for part in module.modules()} | {id(t) for t in _tensors(module)}
        memo: dict[int, Any] = {}
        for part in module.modules():
            for _, attribute in attributes(part):
                if not any(id(reached) in ids for reached in held(attribute)):
                    memo[id(attribute)] = attribute
        self.original = module
        self.module = _copied(module, value, memo)
        self.placed = [dict(vars(part)) for part in self.module.modules()]
        new = (*self.module.modules(), *_tensors(self.module))
        self._new = {
            id(part): part for part in new
        }  # with the parts: an id is one's while it lives

    def give_back(self) -> None:
        """Put attributes that the call has set into the original."""
        pairs = zip(self.original.modules(), self.module.modules(), self.placed, strict=True)
        for original, copied, before in pairs:
            for key, value in attributes(copied):
                if key in before and value is before[key]:
                    continue
                if not any(id(reached) in self._new for reached in held(value)):
                    vars(original)[key] = value
            for key in before.keys() - vars(copied).keys():
                vars(original).pop(key, None)


def _copied(module: nn.Module, value: Convert, memo: dict[int, Any]) -> nn.Module:
    for tensor in _tensors(module):
        if id(tensor) not in memo:
            memo[id(tensor)] = value(tensor)
    for part in module.modules():
        for attribute in part.__dict__.values():
            # deepcopy refuses tensors that were computed, e.g. the cache of a weight norm.
            if isinstance(attribute, Tensor) and not attribute.is_leaf:
                memo.setdefault(id(attribute), attribute.detach().clone())
    with torch.no_grad():
        try:
            return copy.deepcopy(module, dict(memo))
        except Exception as error:  # of any attribute's own copying; raised again
            _name_attribute(module, memo, error)
            raise


def _name_attribute(module: nn.Module, memo: dict[int, Any], error: Exception) -> None:
    """Raise an error that names the attribute that cannot be copied, if it is one."""
    for path, part in module.named_modules():
        for key, value in vars(part).items():
            if key == "_modules":
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except type(error):  # the same failure, of one attribute alone
                where = f"{path}.{key}" if path else key
                got = f"{type(module).__name__} whose attribute {where!r} is {shown(value)}"
                wanted = "attributes that copy.deepcopy can copy, as the target is a template"
                way_out = f"Make it where it is used, or leave it out of copies. It says: {error}"
                raise TypeError(message("target", got, wanted, way_out)) from error


def _tensors(module: nn.Module) -> list[Tensor]:
    """Return all parameters and buffers, those of several names several times."""
    return [
        tensor
        for part in module.modules()
        for tensor in (*part._parameters.values(), *part._buffers.values())
        if tensor is not None
    ]
