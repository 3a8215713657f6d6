"""Norms that keep running statistics, and their momenta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn


def norms_of(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield path and module of all norms that keep running statistics."""
    for path, part in module.named_modules():
        if (
            getattr(part, "track_running_stats", False)
            and part._buffers.get("running_mean") is not None
        ):
            yield path, part


def momenta_of(norms: Mapping[str, nn.Module]) -> dict[str, float]:
    """Return for each running statistic its momentum; 0 for what is counted."""
    momenta = {}
    for path, module in norms.items():
        for key, value in module._buffers.items():
            if value is not None:
                momentum = module.momentum if value.is_floating_point() else 0.0
                # Without a momentum (a running mean) each step counts for less than the last: no
                # vmap then.
                momenta[f"{path}.{key}" if path else key] = momentum or 0.0
    return momenta
