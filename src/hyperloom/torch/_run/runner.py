"""`Runner`: the target, the tensors that it keeps, and what is remembered of its runs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.choices.execution import Execution
from hyperloom._core.choices.patterns import resolve
from hyperloom._core.choices.statistics import Statistics
from hyperloom.torch._run.chain import Chain, lower
from hyperloom.torch._run.memory import Memory
from hyperloom.torch._target.buffers import NO_BUFFERS, Buffers
from hyperloom.torch._target.copying import Convert
from hyperloom.torch._target.skeleton import Skeleton
from hyperloom.torch._target.tensors import TensorTree


class Runner:
    """The half of a hypernetwork that runs: a target as a function of its tensors.

    Not a module, as the skeleton's parameters are none of the hypernetwork's. The tensors that the
    target keeps are modules of the hypernetwork; they are read through it at every call, so that
    `functional_call`, `.to()`, copies and replicas see theirs.

    Args:
        skeleton: The target without its values.
        dtypes: The dtype that each of its tensors is wanted in.
        modules: The modules of the hypernetwork, by name: `kept`, `target_buffers` and
            `target_statistics` are looked at.
        statistics: Whose running statistics are used.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        dtypes: dict[str, torch.dtype],
        modules: dict[str, nn.Module | None],
        statistics: Statistics,
    ) -> None:
        self.skeleton, self.dtypes = skeleton, dtypes
        self.modules, self.statistics = modules, statistics
        self.execution = Execution()
        self.ways: dict[str, str] = {}
        self.memory = Memory()
        self.has_buffers = any(True for _ in self._tree("target_buffers").tensors())
        by_id = [name for name, _ in self._tree("target_statistics").tensors()]
        # A buffer that is kept by id and depends on the order of calls: no running statistic.
        self.ordered = next((name for name in by_id if name not in skeleton.momenta), None)
        self.lowered = _chain_of(skeleton)

    def over(self, modules: dict[str, nn.Module | None]) -> Runner:
        """Return a runner of the same target over the modules of another hypernetwork."""
        other = copy.copy(self)
        other.modules = modules
        return other

    def __getstate__(self) -> dict[str, Any]:
        # The chain and what is remembered refer to the modules of this skeleton.
        return {k: v for k, v in self.__dict__.items() if k not in ("lowered", "memory")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.memory = Memory()
        self.lowered = _chain_of(self.skeleton)

    @property
    def chain(self) -> Chain | None:
        """The target as a chain of simple layers, if it is one and nothing else is to be called."""
        chain = self.lowered
        return chain if chain is None or torch.compiler.is_compiling() or chain.holds() else None

    def kept(self) -> dict[str, Tensor]:
        """Return the tensors that the target keeps, by name."""
        return dict(self._tree("kept").tensors())

    def buffers_now(self) -> dict[str, Tensor]:
        """Return the target's buffers, by name."""
        return dict(self._tree("target_buffers").tensors())

    def buffers(self, ids: Tensor | None, batch: torch.Size) -> Buffers:
        """Return the target's buffers for the conditions of one call."""
        if not self.has_buffers:
            return NO_BUFFERS
        trees = self._tree("target_buffers"), self._tree("target_statistics")
        return Buffers(self.skeleton, *trees, ids, batch)

    def convert(self, fn: Convert) -> None:
        """Follow a `.to()`, `.half()`, `.double()` ... of the hypernetwork."""
        self.skeleton.convert(fn)
        self.memory.routes.clear()

    def be_run(self, execution: Execution) -> None:
        """Run from now on as `execution` says."""
        asked, spec = execution.ways, self.skeleton.spec
        self.ways = {} if asked is None else resolve("Execution(ways=)", asked, str, spec)
        self.execution = execution
        self.memory.routes.clear()

    def _tree(self, name: str) -> TensorTree:
        tree: Any = self.modules[name]
        return tree


def _chain_of(skeleton: Skeleton) -> Chain | None:
    return lower(skeleton.module, skeleton.places.names_by_module())
