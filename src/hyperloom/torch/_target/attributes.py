"""What a target keeps in attributes of its modules between calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from hyperloom.torch._private import is_batched

_MEMBERS = ("_parameters", "_buffers", "_modules")
_MISSING = object()


class Attributes:
    """The attributes of a target's modules before a call.

    Under `vmap`, a tensor that a module keeps in an attribute is one for all conditions and no
    tensor any more when the call is over; a number that is counted is counted once.

    Args:
        target: The target.
    """

    def __init__(self, target: nn.Module) -> None:
        self.before = [(path, m, dict(vars(m))) for path, m in target.named_modules()]
        # A target may hang hooks on its modules during the first call, and note that it has.
        self.hooks = [
            (value, dict(value))
            for _, _, before in self.before
            for key, value in before.items()
            if key.endswith("_hooks") and isinstance(value, dict)
        ]

    def kept(self, tensors: Callable[[Tensor], bool] = is_batched) -> str | None:
        """Say what the call has kept, if it is anything that a loop would keep otherwise.

        Args:
            tensors: Which new tensors count.
        """
        for path, module, before in self.before:
            computed = computed_names(module)
            for key, value in vars(module).items():
                if key in _MEMBERS or key in computed:
                    continue
                old = before.get(key, _MISSING)
                name = f"{path}.{key}" if path else key
                # A list that is as it was may have been added to: seen of what `vmap` leaves.
                if _holds(value, is_batched if value is old else tensors):
                    return f"it keeps tensors in its attribute {name!r}"
                if value is not old and type(value) in (int, float) and value != old:
                    return f"it changes the number in its attribute {name!r}"
        return None

    def restore(self) -> None:
        """Put all attributes back; to be called with the skeleton's lock held."""
        for _, module, before in self.before:
            vars(module).clear()
            vars(module).update(before)
        for held, hooks in self.hooks:
            held.clear()
            held.update(hooks)


def computed_names(module: nn.Module) -> set[str]:
    """Return the attributes that a module computes anew before each use."""
    return computed_by_hooks(module) | (
        {"_flat_weights", "_flat_weight_refs"} if isinstance(module, nn.RNNBase) else set()
    )


def computed_by_hooks(module: nn.Module) -> set[str]:
    """Return the weights that the older `weight_norm` and `spectral_norm` compute anew."""
    return {hook.name for hook in _weight_hooks(module)}


def compute_by_hooks(module: nn.Module) -> None:
    """Compute them, as they stand in a module that was not yet run."""
    for hook in _weight_hooks(module):
        options = {"do_power_iteration": False} if isinstance(hook, SpectralNorm) else {}
        with torch.no_grad():
            setattr(module, hook.name, hook.compute_weight(module, **options))


def _weight_hooks(module: nn.Module) -> list[Any]:
    hooks: Any = module._forward_pre_hooks.values()
    return [hook for hook in hooks if isinstance(hook, (WeightNorm, SpectralNorm))]


def _holds(value: Any, which: Callable[[Tensor], bool], depth: int = 2) -> bool:
    if isinstance(value, Tensor):
        return which(value)
    if depth and isinstance(value, (list, tuple)):
        return any(_holds(part, which, depth - 1) for part in value)
    if depth and isinstance(value, dict):
        return any(_holds(part, which, depth - 1) for part in value.values())
    return False
