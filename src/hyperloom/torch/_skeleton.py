"""The target without its values: a copy on the meta device that is run with given tensors."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hyperloom._spec import TargetSpec
from hyperloom.torch._lowered import Chain, lower

Convert = Callable[[Tensor], Tensor]


class Skeleton:
    """A private copy of the target whose parameters and buffers hold no numbers.

    The user's own module is never touched, so no call and no exception can change it. Every
    tensor is given at every call; one that were forgotten would be a meta tensor, and fail
    loudly.

    Not a module: its parameters are not parameters of the hypernetwork.
    """

    def __init__(self, target: nn.Module, spec: TargetSpec) -> None:
        self.module = _copy(target, lambda t: t.to("meta"))
        self.spec = spec
        self._rnns = [m for m in self.module.modules() if isinstance(m, nn.RNNBase)]
        self._norms = [
            (name, m)
            for name, m in self.module.named_modules()
            if getattr(m, "track_running_stats", False)
            and getattr(m, "running_mean", 0) is not None
        ]
        self._dtypes = {t.name: getattr(torch, t.dtype) for t in spec}
        # A shared submodule is set once, at its first path: setting it twice would leave the
        # second value behind.
        first_paths = {
            f"{path}.{key}" if path else key
            for path, module in target.named_modules()
            for key in (*module._parameters, *module._buffers)
        }
        self._paths = {t.name: tuple(n for n in t.names if n in first_paths) for t in spec}
        self._settle()

    @cached_property
    def chain(self) -> Chain | None:
        """The target as a chain of simple layers, if it is one."""
        names: dict[int, dict[str, str]] = {}
        for name, paths in self._paths.items():
            for path, _, key in (full.rpartition(".") for full in paths):
                names.setdefault(id(self.module.get_submodule(path)), {})[key] = name
        return lower(self.module, names)

    def __getstate__(self) -> dict[str, Any]:
        # The chain refers to the modules of this skeleton; a copy makes its own, and its own lock.
        own = ("chain", "_lock")
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._settle()

    def _settle(self) -> None:
        """Compute the chain now: torch.compile cannot trace the lock of a cached_property."""
        self._lock = threading.RLock()
        _ = self.chain

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """The dtype that each tensor is wanted in."""
        return self._dtypes

    def convert(self, fn: Convert) -> None:
        """Follow a `.to()`, `.half()`, `.double()` ... of the hypernetwork: dtypes only."""
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            dtype = fn(torch.empty(0, dtype=tensor.dtype)).dtype
            tensor.data = tensor.data.to(dtype)
        for name, dtype in self._dtypes.items():
            self._dtypes[name] = fn(torch.empty(0, dtype=dtype)).dtype

    def loses_statistics(self) -> tuple[str, nn.Module] | None:
        """Return a norm that would update running statistics now, if there is one."""
        for name, module in self._norms:
            if module.training:
                return name, module
        return None

    def call(
        self,
        tensors: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Run the target with `tensors` (by their spec's names) and `buffers` in place.

        One thread at a time: two would put their tensors into the same module.
        """
        given = {path: tensors[name] for name, paths in self._paths.items() for path in paths}
        given.update(buffers)
        if torch.compiler.is_compiling():  # a graph has no threads, and no locks
            return functional_call(self.module, given, args, dict(kwargs), tie_weights=False)
        with self._lock:
            return self._call(given, args, kwargs)

    def _call(
        self, given: dict[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        try:
            return functional_call(self.module, given, args, dict(kwargs), tie_weights=False)
        finally:
            for rnn in self._rnns:  # the list that an RNN keeps would hold the given tensors
                rnn._update_flat_weights()

    def build(self, tensors: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> nn.Module:
        """Return a plain module that owns copies of the given tensors, ties kept."""
        values = {n: tensors[t.name] for t in self.spec for n in t.names}
        values.update(buffers)
        by_id = {}
        for path, module in self.module.named_modules():
            for key, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    by_id[id(tensor)] = values[f"{path}.{key}" if path else key]
        made = _copy(self.module, lambda t: by_id[id(t)].detach().clone())
        return _tie(made, self.spec)


def _tie(module: nn.Module, spec: TargetSpec) -> nn.Module:
    """Make names that share storage in the target share one parameter again."""
    for tensor in spec:
        path, _, key = tensor.name.rpartition(".")
        parameter = module.get_submodule(path)._parameters[key]
        for alias in tensor.aliases:
            path, _, key = alias.rpartition(".")
            module.get_submodule(path)._parameters[key] = parameter
    return module


def _copy(module: nn.Module, value: Convert) -> nn.Module:
    """Deep-copy a module with every parameter and buffer replaced by `value` of it.

    The original tensors are never copied, so a large target costs no memory.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for tensor in part._parameters.values():
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = nn.Parameter(value(tensor).detach(), tensor.requires_grad)
        for tensor in part._buffers.values():
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = value(tensor)
        for attribute in part.__dict__.values():
            # deepcopy refuses tensors that were computed, e.g. the cache of a weight norm.
            if isinstance(attribute, Tensor) and not attribute.is_leaf:
                memo[id(attribute)] = attribute.detach().clone()
    with torch.no_grad():
        return copy.deepcopy(module, memo)
