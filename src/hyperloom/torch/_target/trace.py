"""What a call may leave behind it: attributes, lists, objects, generators of random numbers.

Noted before a call, compared after it, and put back where the call is to be done another way.
"""

from __future__ import annotations

import functools
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hyperloom.torch._target.attributes import computed_names
from hyperloom.torch._target.closures import MEMBERS, code_of, globals_of, is_foreign, is_installed
from hyperloom.torch._target.private import is_batched

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_MISSING = object()
_DICTS = (dict, OrderedDict, defaultdict)
# What a function surely uses, of all that it can reach.
_USED = (*_DICTS, list, tuple, set, frozenset, deque, CellType, FunctionType, Tensor, np.ndarray)


class Trace:
    """What the attributes of a target's modules hold, all the way down.

    Under `vmap` a list that is appended to gets one entry for all conditions, a number is counted
    once, and a tensor that is kept is no tensor any more when the call is over.

    Args:
        modules: Modules of the target and their paths.
        inputs: What the call was given.
        draws: Whether Python's and NumPy's generators are looked at, too.
    """

    def __init__(
        self, modules: Iterable[tuple[str, nn.Module]], inputs: Any = (), draws: bool = True
    ) -> None:
        self.seen: set[int] = set()
        self.alive: list[Any] = []
        self.parts: list[_Part] = []
        for path, module in modules:
            self.parts.append(_Dict(path, vars(module), {*MEMBERS, *computed_names(module)}))
            for key, value in vars(module).items():
                if key not in MEMBERS:
                    self._walk(f"{path}.{key}" if path else key, value)
            self._walk(path or "forward", code_of(type(module)))
        for given in tree_leaves(inputs):  # tensors and lists are copied where that is needed
            if not isinstance(given, Tensor):
                self._walk("an input", given)
        if draws:
            self.parts += [
                _Generator("Python's generator", random),
                _Generator("NumPy's", np.random),
            ]

    def changed(self, tensors: Callable[[Tensor], bool] = is_batched) -> str | None:
        """Say what is not as it was, if anything is.

        What was not there, or `None`, and is now something that is no condition's, does not count:
        the target has computed it once for all calls.

        Args:
            tensors: Which tensors may be of a condition.
        """
        said = (part.changed(tensors) for part in self.parts)
        return next((text for text in said if text), None)

    def restore(self) -> None:
        """Put everything back; to be called with the skeleton's lock held."""
        for part in self.parts:
            part.restore()

    def _walk(self, name: str, value: Any) -> None:
        waiting = [(value, False)]
        while waiting:
            item, by_function = waiting.pop()
            if isinstance(item, (*_PLAIN, type, ModuleType, nn.Module)) or id(item) in self.seen:
                continue
            self.seen.add(id(item))
            self.alive.append(item)  # an id is one object's for as long as it lives
            by_function = by_function or isinstance(item, FunctionType)
            # A function may see the whole program through an object.
            if (by_function and type(item) not in _USED) or _is_ours(item):
                continue
            part = _part_of(name, item)
            if part is not None:
                self.parts.append(part)
            waiting += [(inner, by_function) for inner in inner_of(item)]


def _is_ours(item: Any) -> bool:
    """Whether an object is a part of a hypernetwork that is itself a target."""
    return str(type(item).__module__).startswith("hyperloom.")


class _Part:
    """One object, as it was."""

    held: Any
    name: str

    def changed(self, tensors: Callable[[Tensor], bool] = is_batched) -> str | None:
        raise NotImplementedError

    def restore(self) -> None:
        raise NotImplementedError

    def said(self, key: object = None) -> str:
        """Name what has changed."""
        name = self.name if not isinstance(key, str) else f"{self.name}.{key}".removeprefix(".")
        return f"it changes what it keeps in {name!r}"


class _Dict(_Part):
    """A dict, or the attributes of an object or a module."""

    def __init__(self, name: str, held: dict[Any, Any], free: Iterable[str] = ()) -> None:
        self.name, self.held, self.before, self.free = name, held, dict(held), frozenset(free)

    def changed(self, tensors: Callable[[Tensor], bool] = is_batched) -> str | None:
        for key in {**self.before, **self.held}:
            old, new = self.before.get(key, _MISSING), self.held.get(key, _MISSING)
            if key in self.free or _same(old, new):
                continue
            filled = (old is _MISSING or old is None) and new is not _MISSING
            if not filled or _holds(new, tensors):
                return self.said(key)
        return None

    def restore(self) -> None:
        if any(self.held.get(k, _MISSING) is not v for k, v in self.before.items()) or len(
            self.held
        ) != len(self.before):
            self.held.clear()
            self.held.update(self.before)


class _List(_Part):
    """A list, a deque or a set."""

    def __init__(self, name: str, held: Any) -> None:
        self.name, self.held, self.before = name, held, list(held)

    def changed(self, tensors: Callable[[Tensor], bool] = is_batched) -> str | None:
        same = len(self.held) == len(self.before) and all(map(_same, self.before, self.held))
        return None if same else self.said()

    def restore(self) -> None:
        if self.changed():
            self.held.clear()
            (self.held.update if isinstance(self.held, set) else self.held.extend)(self.before)


class _Cell(_Part):
    """A variable of a function around a function."""

    def __init__(self, name: str, held: CellType) -> None:
        self.name, self.held, self.before = name, held, _content(held)

    def changed(self, tensors: Callable[[Tensor], bool] = is_batched) -> str | None:
        return None if _same(self.before, _content(self.held)) else self.said()

    def restore(self) -> None:
        if self.before is not _MISSING:
            self.held.cell_contents = self.before


class _Tensor(_Part):
    """A tensor or an array that is no buffer."""

    def __init__(self, name: str, held: Any) -> None:
        self.name, self.held = name, held
        self.version = version_of(held)
        with torch.no_grad():
            self.before = held.clone() if isinstance(held, Tensor) else held.copy()

    def changed(self, tensors: Callable[[Tensor], bool] = is_batched) -> str | None:
        if isinstance(self.held, Tensor):
            return None if version_of(self.held) == self.version else self.said()
        return None if np.array_equal(self.held, self.before, equal_nan=True) else self.said()

    def restore(self) -> None:
        if self.changed() and isinstance(self.held, Tensor):
            with torch.no_grad():
                self.held.copy_(self.before)
        elif self.changed():
            self.held[...] = self.before


class _Generator(_Part):
    """A generator of random numbers."""

    def __init__(self, name: str, held: Any) -> None:
        self.name, self.held = name, held
        self.before = _state(held)

    def changed(self, tensors: Callable[[Tensor], bool] = is_batched) -> str | None:
        same = _equal_states(self.before, _state(self.held))
        return None if same else f"it draws random numbers by itself, from {self.name}"

    def restore(self) -> None:
        _set_state(self.held, self.before)


def _part_of(name: str, item: Any) -> _Part | None:
    """Return how an object is noted; `None` for what only leads on to others."""
    if isinstance(item, Tensor):
        return None if item.is_meta or is_batched(item) else _Tensor(name, item)
    if isinstance(item, np.ndarray):
        return None if item.dtype.hasobject else _Tensor(name, item)
    if isinstance(item, (torch.Generator, np.random.Generator, np.random.RandomState)):
        return _Generator(f"the generator in {name!r}", item)
    if isinstance(item, random.Random):
        return _Generator(f"the generator in {name!r}", item)
    if type(item) in _DICTS:
        return _Dict(name, item)
    if type(item) in (list, deque, set):
        return _List(name, item)
    if isinstance(item, CellType):
        return _Cell(name, item)
    if isinstance(item, (tuple, frozenset, FunctionType, MethodType, functools.partial)):
        return None
    attributes = getattr(item, "__dict__", None)
    return _Dict(name, attributes) if isinstance(attributes, dict) else None


def inner_of(item: Any) -> list[Any]:
    """Return what is in an object: its entries, its attributes, what it closes over."""
    if type(item) in (list, set, deque) or isinstance(item, (tuple, frozenset)):
        return [part for part in item if type(part) not in _PLAIN]
    if type(item) in _DICTS:
        return [part for part in item.values() if type(part) not in _PLAIN]
    if isinstance(item, CellType):
        return [_content(item)]
    if isinstance(item, MethodType):
        return [item.__func__, item.__self__]
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, FunctionType):
        if is_foreign(item) or is_installed(item):
            return list(item.__closure__ or ())
        names = (n for n in globals_of(item.__code__) if n in item.__globals__)
        kept = (item.__globals__[n] for n in names)
        kinds = (list, dict, set, deque, FunctionType)
        return [*(item.__closure__ or ()), *(v for v in kept if isinstance(v, kinds))]
    attributes = getattr(item, "__dict__", None)
    return list(attributes.values()) if isinstance(attributes, dict) else []


def _same(old: Any, new: Any) -> bool:
    if old is new:
        return True
    if type(old) is not type(new):
        return False
    if isinstance(old, tuple):
        return len(old) == len(new) and all(map(_same, old, new))
    if isinstance(old, MethodType):
        return old.__func__ is new.__func__ and old.__self__ is new.__self__
    return isinstance(old, _PLAIN) and (old == new or (old != old and new != new))


def _holds(value: Any, which: Callable[[Tensor], bool], depth: int = 4) -> bool:
    if isinstance(value, Tensor):
        return which(value)
    return depth > 0 and any(_holds(part, which, depth - 1) for part in inner_of(value))


def version_of(tensor: Any) -> int:
    known = isinstance(tensor, Tensor) and not tensor.is_inference()
    return tensor._version if known else 0


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return _MISSING


def _state(held: Any) -> Any:
    if isinstance(held, np.random.Generator):
        return held.bit_generator.state
    if isinstance(held, np.random.RandomState) or held is np.random:
        return held.get_state(legacy=True)  # type: ignore[call-arg]
    if isinstance(held, torch.Generator):
        return held.get_state()
    return held.getstate()


def _set_state(held: Any, state: Any) -> None:
    if isinstance(held, np.random.Generator):
        held.bit_generator.state = state
    elif isinstance(held, (torch.Generator, np.random.RandomState)):
        held.set_state(state)
    elif held is np.random:
        np.random.set_state(state)
    else:
        held.setstate(state)


def _equal_states(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_equal_states(one[k], two[k]) for k in one)
    if isinstance(one, (np.ndarray, Tensor)):
        return bool((one == two).all())
    if isinstance(one, tuple) and any(isinstance(part, np.ndarray) for part in one):
        return all(map(_equal_states, one, two))
    return one == two
