"""Functions put on a target's modules that hold on to the modules themselves.

A copy of a module has copies of its submodules and bound methods, but a function is not copied:
one that was written around a layer (`layer.forward = lambda x: 2 * old(x)`) still calls the
original, with the original's weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from hyperloom._core.errors import message

_DEEPEST = 4


def refuse_outside_references(target: nn.Module, skeleton: nn.Module) -> None:
    """Raise if a function in an attribute or a hook of the copy refers to the original.

    Args:
        target: The original.
        skeleton: Its copy, which is to be run in its place.

    Raises:
        ValueError: It does.
    """
    paths: dict[int, str] = {}
    for path, module in target.named_modules():
        paths[id(module)] = path or type(module).__name__
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                paths[id(tensor)] = f"{path}.{key}" if path else key
    for path, module in skeleton.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules"):
                continue
            for found in _held(value, _DEEPEST):
                if id(found) in paths:
                    where = f"{path}.{key}" if path else key
                    got = f"a function in {where!r} that holds on to {paths[id(found)]!r}"
                    wanted = "functions that reach the target's parts through their arguments"
                    way_out = (
                        "A copy of the target would call the original's weights. Write a "
                        "subclass, or bind it: layer.forward = types.MethodType(function, layer)."
                    )
                    raise ValueError(message("target", got, wanted, way_out))


def _held(value: Any, depth: int) -> Iterator[Any]:
    """Yield the modules and tensors that functions in `value` refer to."""
    if depth == 0:
        return
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        names = [n for n in value.__code__.co_names if n in value.__globals__]
        reached = [*cells, *(value.__globals__[n] for n in names), *(value.__defaults__ or ())]
        for inner in reached:
            if isinstance(inner, (nn.Module, Tensor)):
                yield inner
            elif isinstance(inner, MethodType):
                yield inner.__self__
            else:
                yield from _held(inner, depth - 1)
    elif isinstance(value, MethodType):
        yield from _held(value.__func__, depth - 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _held(inner, depth - 1)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _held(inner, depth - 1)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  an empty cell raises
    except ValueError:
        return False
    return True
