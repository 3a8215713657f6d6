"""What the functions of PyTorch do inside `vmap`, where `vmap` itself refuses or is slow."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from hyperloom.torch._rules.attention import attention
from hyperloom.torch._rules.hidden import (
    ANSWERED,
    LEAVES,
    ON_GRADIENTS,
    refuse_hidden,
    take_gradient,
)
from hyperloom.torch._rules.registry import AUTOCAST, GRAPH, OPENED, VMAP
from hyperloom.torch._target.checkpointing import CheckpointedError, checkpointed
from hyperloom.torch._target.private import any_autocast, saving_hooks


class Lowering(TorchFunctionMode):
    """Runs a target's functions by rules of our own, where there is one.

    Args:
        same_draws: Whether random draws are the same for all conditions.
        given: The inputs of the call (`id`).

    Raises:
        CheckpointedError: The target checkpoints activations; the recomputation would run when
            `vmap` is over.
        OneByOneError: It does what `vmap` would hide.
    """

    def __init__(self, same_draws: bool = False, given: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.same_draws, self.given = same_draws, given
        self.grad = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        self.hooks = saving_hooks() if self.grad else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.grad and saving_hooks() != self.hooks and checkpointed(self.hooks):
            raise CheckpointedError("it checkpoints activations")
        if not torch.compiler.is_compiling():
            if func in ANSWERED:
                return ANSWERED[func](args[0])
            if func in LEAVES and take_gradient(args[0], self.given, *args[1:], **kwargs):
                return args[0]
            if func in ON_GRADIENTS or kwargs.get("generator") is not None:
                refuse_hidden(func, kwargs)
        if func is F.scaled_dot_product_attention:  # the one rule that asks how draws are made
            return attention(self.same_draws, *args, **kwargs)
        if torch.compiler.is_compiling():
            known = GRAPH.get(func) or AUTOCAST.get(func) or VMAP.get(func) or func
            return known(*args, **kwargs)
        if func in OPENED:
            with self:  # what it calls is to come here too; a graph cannot enter a mode again
                return OPENED[func](*args, **kwargs)
        known = AUTOCAST.get(func) if any_autocast() else None
        if func is F.linear and args and getattr(args[0], "ndim", 0) < 3:
            return (known or func)(*args, **kwargs)  # its rule is for rows with several axes
        return (known or VMAP.get(func) or func)(*args, **kwargs)
