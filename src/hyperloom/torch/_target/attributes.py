"""Attributes that modules of torch compute anew before each use."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


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


def have_dense_gradients(module: nn.Module) -> list[str]:
    """Have embeddings give dense gradients; return the paths of those that gave sparse ones.

    Sparse gradients are for a table that an optimiser updates. The gradient of a generated table
    flows on into the generator.
    """
    kinds = nn.Embedding, nn.EmbeddingBag
    found = {p: m for p, m in module.named_modules() if isinstance(m, kinds) and m.sparse}
    for part in found.values():
        part.sparse = False
    return list(found)
