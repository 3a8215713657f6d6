"""Writes of the target into its own weights: seen before they happen, or counted afterwards.

A weight that is handed to the target may be the user's own memory (what is kept of the target, a
condition) or a learned row. The first call of each kind is watched, operation by operation: one
that would write into such a tensor ends the run, which starts again with copies.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hyperloom.torch._target.private import is_batched, unwrapped


class WrittenError(BaseException):  # not for the target's own `except Exception`
    """The target is about to write into a tensor that it was given as a weight."""


class Writes(TorchDispatchMode):
    """Ends a run, by `WrittenError`, before it writes into a tensor that is guarded.

    Attributes:
        found: The names of those tensors.
        names: The names of all that are guarded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.names: set[str] = set()
        self.memory: dict[int, list[tuple[int, int, str]]] = {}
        self.alive: list[Tensor] = []  # a storage is known by its address for as long as it lives

    def guard(self, tensors: Mapping[str, Tensor], but: set[str]) -> None:
        """Guard tensors, but for some names."""
        self.names.update(name for name in tensors if name not in but)
        for name in tensors.keys() - but:
            for value in _held_by(tensors[name]):
                where = _where(value)
                if where is not None:
                    storage, start, stop = where
                    self.alive.append(value)
                    self.memory.setdefault(storage, []).append((start, stop, name))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for place, key in _written_arguments(func):
            value = args[place] if place < len(args) else kwargs.get(key)
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                self.found.update(self._names(tensor))
        if self.found:
            raise WrittenError(str(func))
        with torch._C.DisableTorchFunctionSubclass():  # stand-ins were asked before
            return func(*args, **kwargs)

    def __enter__(self) -> Writes:
        self.outer, ACTIVE.now = ACTIVE.now, self
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        ACTIVE.now = self.outer
        super().__exit__(*error)

    def _names(self, tensor: Any) -> Iterator[str]:
        where = _where(tensor) if isinstance(tensor, Tensor) else None
        if where is None:
            return
        storage, start, stop = where
        for begin, end, name in self.memory.get(storage, ()):
            if start < end and begin < stop:
                yield name


class _Active(threading.local):
    now: Writes | None = None


# `ACTIVE.now`: the watch that is on in this thread, if one is.
ACTIVE = _Active()


def versions(tensors: Iterable[Tensor]) -> list[int]:
    """Return how often each tensor, or what it is a view of, was written."""
    return [0 if t.is_inference() else t._version for t in tensors]


@lru_cache(maxsize=4096)
def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    arguments = enumerate(func._schema.arguments)
    return tuple((i, a.name) for i, a in arguments if a.alias_info and a.alias_info.is_write)


def is_stand_in(value: Tensor) -> bool:
    """Whether a tensor is one of this library's, which stands for a weight."""
    return type(value).__module__.startswith("hyperloom.")


def _held_by(value: Tensor) -> Iterator[Tensor]:
    """Yield the tensors with the numbers of a weight; a stand-in has parts of one."""
    weight = vars(value).get("weight")
    for part in (value,) if weight is None else weight.owned:
        while is_batched(part):
            part = unwrapped(part)
        yield part


def _where(tensor: Tensor) -> tuple[int, int, int] | None:
    """Return the storage of a tensor, and where in it the tensor begins and ends."""
    with torch._C.DisableTorchFunctionSubclass():  # a stand-in is not to become dense
        try:
            storage: Any = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # sparse, or without numbers
            return None
        if not tensor.numel():
            return None
        start = int(tensor.storage_offset())
        pairs = zip(tensor.shape, tensor.stride(), strict=True)
        stop = start + 1 + sum(int((size - 1) * stride) for size, stride in pairs)
        return storage._cdata, start * tensor.itemsize, stop * tensor.itemsize


def memory_of(tensors: Iterable[Any]) -> set[int]:
    """Return the storages of tensors."""
    places = (_where(t) for t in tensors if isinstance(t, Tensor))
    return {where[0] for where in places if where is not None}


def lies_in(tensor: Tensor, storages: set[int]) -> bool:
    """Whether a tensor is in one of some storages, or several of its numbers are one."""
    where = _where(tensor)
    several = any(
        stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return several or (where is not None and where[0] in storages)
