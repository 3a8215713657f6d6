"""What the values in a target's attributes hold on to: its modules and tensors, past `nn.Module`.

A copy of a module has copies of its submodules and bound methods, but a function is not copied:
one that was written around a layer (`layer.forward = lambda x: 2 * old(x)`) still calls the
original, with the original's weights. And a list of weights is copied with the module, but a call
with other tensors does not put them into it.
"""

from __future__ import annotations

import dis
import functools
from collections import deque
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from hyperloom._core.errors import message

MEMBERS = ("_parameters", "_buffers", "_modules")
# Lists of weights that torch's own modules keep up to date.
_KEPT_UP = ("_flat_weights", "_flat_weight_refs")
_CONTAINERS = (list, tuple, set, frozenset, deque)


def refuse_outside_references(target: nn.Module, skeleton: nn.Module) -> None:
    """Raise if something in the copy, or a function that it runs, refers to the original.

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
        for key, value in (*attributes(module), ("forward", code_of(type(module)))):
            if key == "extra_repr":  # of printing, not of a call: torchao puts one there
                continue
            tensor = next((part for part in held(value) if id(part) in paths), None)
            if tensor is not None:
                where = f"{path}.{key}" if path else key
                got = f"a function in {where!r} that holds on to {paths[id(tensor)]!r}"
                wanted = "functions that reach the target's parts through their arguments"
                way_out = (
                    "A copy of the target would call the original's weights. Write a "
                    "subclass, or bind it: layer.forward = types.MethodType(function, layer)."
                )
                raise ValueError(message("target", got, wanted, way_out))


def holder(target: nn.Module) -> str | None:
    """Return the name of an attribute that holds a parameter or buffer of the target itself.

    A list of weights, say: tensors that are put into the modules do not come to stand in it.
    """
    ids = {
        id(tensor)
        for module in target.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    }
    for path, module in target.named_modules():
        for key, value in attributes(module):
            if key not in _KEPT_UP and any(id(part) in ids for part in held(value)):
                return f"{path}.{key}" if path else key
    return None


def attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the attributes of a module but for its parameters, buffers and submodules."""
    return [(key, value) for key, value in vars(module).items() if key not in MEMBERS]


def held(value: Any) -> Iterator[Any]:
    """Yield the modules and tensors that a value reaches, without looking into modules.

    Through containers, partials, bound methods, objects' attributes, and what functions refer to:
    closures, globals, defaults. A function may see the whole program through an object (a trainer
    that holds the model), so that objects are not looked into from there.
    """
    seen: set[int] = set()
    alive: list[Any] = []  # an id is one object's for as long as it lives
    waiting = [(value, False)]
    while waiting:
        item, by_function = waiting.pop()
        if isinstance(item, (nn.Module, Tensor)):
            yield item
        elif not isinstance(item, _PLAIN) and id(item) not in seen:
            seen.add(id(item))
            alive.append(item)
            by_function = by_function or isinstance(item, FunctionType)
            waiting += [(part, by_function) for part in _parts(item, by_function)]


_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, ModuleType)


def _parts(item: Any, by_function: bool) -> list[Any]:
    """Return what an object holds; with `by_function`, only what a function surely uses."""
    if isinstance(item, _CONTAINERS):
        return list(item)
    if isinstance(item, Mapping):
        return list(item.values())
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, MethodType):
        return [item.__func__, item.__self__]
    if isinstance(item, FunctionType):
        return [] if is_foreign(item) else _referred(item)
    return [] if by_function else list(getattr(item, "__dict__", {}).values())


_FOREIGN = frozenset(
    ("torch", "numpy", "builtins", "functools", "typing", "collections", "abc", "math", "hyperloom")
)


def is_foreign(function: FunctionType) -> bool:
    """Whether a function is of torch, of Python's own library or of this one."""
    return str(function.__module__).partition(".")[0] in _FOREIGN


def is_installed(function: FunctionType) -> bool:
    """Whether a function is of an installed package, whose globals are no part of a target."""
    return "site-packages" in function.__code__.co_filename


def _referred(function: FunctionType) -> list[Any]:
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    scope = function.__globals__
    names = [name for name in globals_of(function.__code__) if name in scope]
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    return [*cells, *(scope[name] for name in names), *defaults]


@functools.lru_cache(maxsize=4096)
def globals_of(code: CodeType) -> tuple[str, ...]:
    """Return the names of globals that a function reads; not those of attributes."""
    names = [i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"]
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    return tuple(dict.fromkeys((*names, *(name for part in inner for name in globals_of(part)))))


def code_of(kind: type) -> list[FunctionType]:
    """Return a class's `forward` and the methods that it names, as far as they are not torch's."""
    waiting, methods = ["forward"], {}
    while waiting:
        name = waiting.pop()
        function = getattr(kind, name, None)
        if name in methods or not isinstance(function, FunctionType) or is_foreign(function):
            continue
        methods[name] = function
        waiting += function.__code__.co_names
    return list(methods.values())


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  an empty cell raises
    except ValueError:
        return False
    return True
