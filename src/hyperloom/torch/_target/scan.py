"""What the code of a target says of itself: whether it may keep anything, draw numbers, or seed.

Read once. A call of a target whose code says that it keeps nothing need not be compared with what
was before it.
"""

from __future__ import annotations

import dis
import random
from collections.abc import Iterator
from functools import lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import nn

from hyperloom.torch._target.closures import (
    attributes,
    code_of,
    globals_of,
    is_foreign,
    is_installed,
)

_STORES = ("STORE_ATTR", "STORE_SUBSCR", "STORE_GLOBAL", "DELETE_ATTR", "DELETE_SUBSCR")
_CHANGES = frozenset(
    ("append", "appendleft", "extend", "insert", "pop", "popleft", "popitem", "remove", "clear")
) | frozenset(
    ("update", "setdefault", "add", "discard", "setattr", "delattr", "__setattr__", "next")
)
_GRADIENTS = frozenset(
    ("register_hook", "register_post_accumulate_grad_hook", "retain_grad", "grad_fn", "is_leaf")
)
_SEEDS = frozenset(("manual_seed", "manual_seed_all", "fork_rng", "set_rng_state"))


def keepers(target: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules, with their paths, that may keep something from call to call."""
    return [(path, m) for path, m in target.named_modules() if any(map(_stores, _functions(m)))]


def draws(target: nn.Module) -> bool:
    """Whether code of the target may draw from Python's or NumPy's generators."""
    return any(_draws(f) for m in target.modules() for f in _functions(m))


def seeds(target: nn.Module) -> str | None:
    """Return the name of a function in the target's code that sets PyTorch's generators."""
    codes = (c for m in target.modules() for f in _functions(m) for c in _codes(f.__code__))
    return next((min(found) for c in codes if (found := _SEEDS.intersection(c.co_names))), None)


def on_gradients(target: nn.Module) -> frozenset[str]:
    """Return the names in the target's code that ask for gradients, take them or stop them."""
    codes = (c for m in target.modules() for f in _functions(m) for c in _codes(f.__code__))
    return frozenset(name for code in codes for name in _GRADIENTS.intersection(code.co_names))


def takes_leaves(target: nn.Module) -> bool:
    """Whether code of the target has gradients taken for a tensor of its own."""
    codes = (c for m in target.modules() for f in _functions(m) for c in _codes(f.__code__))
    return any("requires_grad_" in c.co_names or _assigns(c, "requires_grad") for c in codes)


def replaces_data(target: nn.Module) -> bool:
    """Whether code of the target assigns to `data`: puts other memory into a tensor."""
    codes = (c for m in target.modules() for f in _functions(m) for c in _codes(f.__code__))
    return any(_assigns(code, "data") for code in codes)


def writes_in_place(target: nn.Module) -> bool:
    """Whether code of the target names a function that writes in place, or assigns to an index."""
    codes = (c for m in target.modules() for f in _functions(m) for c in _codes(f.__code__))
    return any(map(_writes_in, codes))


def renormed_paths(target: nn.Module) -> set[str]:
    """Return the names of tables whose rows are renormed in place when they are looked up."""
    return {
        f"{path}.weight" if path else "weight"
        for path, part in target.named_modules()
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.max_norm is not None
    }


@lru_cache(maxsize=4096)
def _assigns(code: CodeType, name: str) -> bool:
    return name in code.co_names and any(
        i.opname == "STORE_ATTR" and i.argval == name for i in dis.get_instructions(code)
    )


def _functions(module: nn.Module) -> Iterator[FunctionType]:
    """Yield what may run in a module's forward: its class's code, hooks, and what they call."""
    functions, names = _of_class(type(module))
    yield from functions
    waiting: list[Any] = [value for _, value in attributes(module)]
    seen: set[int] = set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, (nn.Module, ModuleType, type, *_PLAIN)):
            continue
        seen.add(id(item))
        if isinstance(item, FunctionType):
            yield from _reached(item)
            waiting += [c.cell_contents for c in item.__closure__ or () if _filled(c)]
        elif isinstance(item, dict):
            waiting += [v for v in item.values() if type(v) not in _PLAIN]
        elif isinstance(item, (list, tuple)):
            waiting += [v for v in item if type(v) not in _PLAIN]
        elif isinstance(item, partial):
            waiting += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, MethodType):
            waiting += [item.__func__, item.__self__]
        elif not _is_of_library(type(item)):
            methods = vars(type(item))
            waiting += [methods[n] for n in {*names, "__call__"} if n in methods]
            waiting += list(getattr(item, "__dict__", {}).values())


@lru_cache(maxsize=1024)
def _of_class(kind: type) -> tuple[tuple[FunctionType, ...], frozenset[str]]:
    """Return the functions that a class's forward reaches, and the names that they use."""
    functions = dict.fromkeys(f for start in code_of(kind) for f in _reached(start))
    names = (name for f in functions for code in _codes(f.__code__) for name in code.co_names)
    return tuple(functions), frozenset(names)


@lru_cache(maxsize=4096)
def _reached(function: FunctionType) -> tuple[FunctionType, ...]:
    """Return a function and those that it calls by global names, as far as they are the user's."""
    waiting, reached = [function], {}
    while waiting:
        item = waiting.pop()
        if isinstance(item, FunctionType) and item not in reached and not is_foreign(item):
            reached[item] = None
            if not is_installed(item):
                waiting += [item.__globals__.get(name) for name in globals_of(item.__code__)]
    return tuple(reached)


_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def _is_of_library(kind: type) -> bool:
    return str(kind.__module__).partition(".")[0] in ("torch", "numpy", "builtins", "collections")


@lru_cache(maxsize=4096)
def _stores_in(code: CodeType) -> bool:
    stores = any(i.opname in _STORES for i in dis.get_instructions(code))
    free = bool(code.co_freevars) and any(
        i.opname == "STORE_DEREF" and i.argval in code.co_freevars
        for i in dis.get_instructions(code)
    )
    return stores or free or _names_in_place(code) or bool(_CHANGES.intersection(code.co_names))


def _names_in_place(code: CodeType) -> bool:
    return any(n[-1] == "_" and n[0] != "_" for n in code.co_names) or any(
        "out" in names for names in code.co_consts if isinstance(names, tuple)
    )


@lru_cache(maxsize=4096)
def _writes_in(code: CodeType) -> bool:
    names = (i.opname for i in dis.get_instructions(code))
    return _names_in_place(code) or "STORE_SUBSCR" in names


def _stores(function: FunctionType) -> bool:
    return function.__name__ != "__init__" and any(
        _stores_in(code) for code in _codes(function.__code__)
    )


def _draws(function: FunctionType) -> bool:
    scope = function.__globals__
    for name in globals_of(function.__code__):
        value = scope.get(name)
        if value is random or value is np.random or isinstance(value, _GENERATORS):
            return True
        if value is np and any("random" in code.co_names for code in _codes(function.__code__)):
            return True
        owner = getattr(value, "__self__", None)
        if isinstance(owner, _GENERATORS):  # from random import random
            return True
    imports = ("random", "numpy")
    inner = (i for code in _codes(function.__code__) for i in dis.get_instructions(code))
    return any(i.opname == "IMPORT_NAME" and i.argval in imports for i in inner)


_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  an empty cell raises
    except ValueError:
        return False
    return True
