"""What is used of PyTorch that is not public, in one place. Seen on torch 2.13."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module
from torch.nn.utils import parametrize

_C: Any = torch._C
_torch: Any = torch
_parametrize: Any = parametrize
_module: Any = module

weight_norm = _torch._weight_norm
pack_padded_sequence = _torch._pack_padded_sequence
pad_packed_sequence = _torch._pad_packed_sequence
# Whether autocast is on, on any device.
any_autocast = _C._is_any_autocast_enabled
# Return the hooks for saved tensors that are in force, or `None`.
saving_hooks = partial(_C._autograd._top_saved_tensors_default_hooks, True)


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor is one of `vmap`'s, with the conditions hidden."""
    return _C._functorch.is_batchedtensor(tensor)


def in_front(tensor: Tensor) -> bool:
    """Whether all conditions that `vmap` hides in a tensor, some, are its first dimensions."""
    levels = 0
    while is_batched(tensor):
        if _C._functorch.maybe_get_bdim(tensor):
            return False
        tensor, levels = unwrapped(tensor), levels + 1
    return levels > 0


def take_gradient_inside(tensor: Tensor) -> None:
    """Call `requires_grad_()` inside a transform, on a tensor that is outside of it."""
    allowed = _C._functorch.get_inplace_requires_grad_allowed()
    _C._functorch.set_inplace_requires_grad_allowed(True)
    try:
        tensor.requires_grad_()
    finally:
        _C._functorch.set_inplace_requires_grad_allowed(allowed)


def unwrapped(tensor: Tensor) -> Tensor:
    """Return what a tensor of a transform is one level further out."""
    return _C._functorch.get_unwrapped(tensor)


def inside_transform() -> bool:
    """Whether a transform of torch.func (vmap, grad ...) is being run around this."""
    return not torch.compiler.is_compiling() and _C._functorch.maybe_current_level() is not None


@contextmanager
def without_saving_hooks() -> Generator[None]:
    """Save tensors as they are, for what is computed once and kept.

    A recomputation (activation checkpointing) counts what is saved, and does not compute it again.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or saving_hooks() is None:
        yield
        return
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        yield


def warn_of_slow_operations(on: bool) -> None:
    """Let `vmap` warn of what it runs one slice after the other, or not."""
    _C._functorch._set_vmap_fallback_warning_enabled(on)


@contextmanager
def no_cached_parametrizations() -> Generator[None]:
    """Let nothing be found that `parametrize.cached()` has kept of a call before."""
    if not _parametrize._cache_enabled:
        yield
        return
    kept = _parametrize._cache_enabled, _parametrize._cache
    _parametrize._cache_enabled, _parametrize._cache = 0, {}
    try:
        yield
    finally:
        _parametrize._cache_enabled, _parametrize._cache = kept


# Hooks that are registered for all modules: those that are called with gradients, and all.
HOOKS_ON_GRADIENTS = (_module._global_backward_hooks, _module._global_backward_pre_hooks)
GLOBAL_HOOKS = (
    *HOOKS_ON_GRADIENTS,
    _module._global_forward_hooks,
    _module._global_forward_pre_hooks,
)
