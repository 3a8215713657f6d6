"""What the code of a target may do beside computing: read once, asked at every call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from hyperloom.torch._target.checkpointing import is_of_torch_alone, may_checkpoint
from hyperloom.torch._target.private import HOOKS_ON_GRADIENTS
from hyperloom.torch._target.scan import (
    draws,
    keepers,
    on_gradients,
    replaces_data,
    seeds,
    takes_leaves,
    writes_in_place,
)
from hyperloom.torch._target.trace import Trace


class Code:
    """What the code of a target says of itself.

    Args:
        module: The target.
        norms: Its modules with running statistics, by path.

    Attributes:
        parts: All its modules.
        parametrized: Whether it has parametrizations.
        may_store: Whether it may keep something from call to call.
        needs_no_watch: Whether it keeps nothing, draws nothing and has no hooks on gradients; those
            for all modules apart.
        may_write: Whether the code of a module with buffers, but for norms, may write them.
        may_write_weights: Whether it may write into weights.
        replaces_data: Whether it assigns to `data`.
        may_checkpoint: Whether it may checkpoint activations.
        of_torch_alone: Whether only code of `torch.nn` runs in it, which checkpoints nothing and
            holds on to no module.
        seeds: The name of a function in it that sets PyTorch's generators, if there is one.
        on_gradients: Names in it that have to do with gradients that are taken.
        takes_leaves: Whether it has gradients taken for a tensor of its own.
    """

    def __init__(self, module: nn.Module, norms: Mapping[str, nn.Module]) -> None:
        self.parts = list(module.modules())
        self.parametrized = any(map(is_parametrized, self.parts))
        self._keepers, self._draws = keepers(module), draws(module)
        self.may_store = bool(self._keepers)
        known = {id(m) for m in norms.values()}
        writers = (m for _, m in self._keepers if id(m) not in known)
        self.may_write = any(b is not None for m in writers for b in m._buffers.values())
        self.may_write_weights, self.replaces_data = writes_in_place(module), replaces_data(module)
        self.may_checkpoint = may_checkpoint(module)
        self.of_torch_alone = is_of_torch_alone(module)
        self.seeds, self.on_gradients = seeds(module), on_gradients(module)
        self.takes_leaves = takes_leaves(module)
        self._hooked = [
            (path, part)
            for path, part in module.named_modules()
            if part._backward_hooks or part._backward_pre_hooks
        ]
        watched = self._keepers or self._draws or self._hooked or self.seeds is not None
        self.needs_no_watch = not watched

    def hooks_on_gradients(self) -> str | None:
        """Return the name of hooks that are called with gradients, if there are any."""
        if any(HOOKS_ON_GRADIENTS):
            return "hooks on the gradients of all modules"
        for path, module in self._hooked:
            return f"hooks on the gradients of {path or type(module).__name__!r}"
        return None

    def watch(self, inputs: Any) -> Trace | None:
        """Note what a call may change, if the target's code says that it changes anything."""
        if not self._keepers and not self._draws:
            return None
        return Trace(self._keepers, inputs, self._draws)
