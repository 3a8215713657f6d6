"""Running statistics of the target, kept as the user has chosen."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from hyperloom._core.choices.statistics import (
    BatchStatistics,
    PerConditionStatistics,
    SharedStatistics,
    Statistics,
)
from hyperloom._core.errors import call_it, did_you_mean, message, shown
from hyperloom._core.plan.plan import Plan
from hyperloom.torch._target.norms import norms_of
from hyperloom.torch._target.skeleton import Skeleton
from hyperloom.torch._target.tensors import TensorTree


def checked_statistics(choice: Statistics | None, plan: Plan) -> Statistics:
    """Return the choice, or the default for the plan's condition.

    Raises:
        TypeError: An object of another class.
        ValueError: Statistics by id with a condition that has no ids.
    """
    if choice is None:
        return SharedStatistics() if plan.num_ids is None else PerConditionStatistics()
    if not isinstance(choice, Statistics):
        wanted = "PerConditionStatistics(), SharedStatistics() or BatchStatistics()"
        raise TypeError(message("statistics", shown(choice), wanted, call_it(choice, Statistics)))
    if isinstance(choice, PerConditionStatistics) and plan.num_ids is None:
        got = f"{choice} with the condition {plan.condition}"
        way_out = "Use SharedStatistics() or BatchStatistics()."
        raise ValueError(message("statistics", got, "a condition with ids", way_out))
    return choice


def tables(choice: Statistics, skeleton: Skeleton, buffers: TensorTree, plan: Plan) -> TensorTree:
    """Return the buffers that are kept by id, `(num_ids, *shape)` each.

    With `BatchStatistics` the norms of the skeleton lose their statistics.

    Raises:
        ValueError: A pattern that names no buffer.
    """
    by_id = TensorTree()
    if isinstance(choice, BatchStatistics):
        for path, module in list(norms_of(skeleton.module)):
            for key in list(module._buffers):
                if module._buffers[key] is not None:
                    buffers.remove(f"{path}.{key}" if path else key)
                module._buffers[key] = None
            vars(module)["track_running_stats"] = False
        skeleton.settle()
    if isinstance(choice, PerConditionStatistics):
        assert plan.num_ids is not None
        shared = dict(buffers.tensors())
        for name in _by_id(choice, skeleton, list(shared)):
            value = shared[name]
            rows = value.expand(plan.num_ids, *value.shape).clone()
            by_id.add_buffer(name, rows, buffers.is_persistent(name))
    return by_id


def grow_tables(held: TensorTree, buffers: TensorTree, num: int) -> None:
    """Append rows for new ids; they start out as the target's own buffers."""
    shared = dict(buffers.tensors())
    for name, table in list(held.tensors()):
        rows = shared[name].expand(num, *shared[name].shape)
        held.add_buffer(name, torch.cat([table, rows]), buffers.is_persistent(name))


def _by_id(choice: PerConditionStatistics, skeleton: Skeleton, names: list[str]) -> list[str]:
    by_id = set(skeleton.momenta) | set(_power_iterations(skeleton.module))
    for pattern in choice.also:
        named = [name for name in names if fnmatchcase(name, pattern)]
        if not named:
            way_out = did_you_mean(pattern, names) if names else ""
            wanted = "patterns that name buffers of the target"
            raise ValueError(
                message("PerConditionStatistics(also=)", repr(pattern), wanted, way_out)
            )
        by_id.update(named)
    return [name for name in names if name in by_id]


def _power_iterations(module: nn.Module) -> Iterator[str]:
    """Yield the names of the vectors that `spectral_norm` keeps, the hook's and the newer one's."""
    for path, part in module.named_modules():
        keys: list[str] = []
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                keys += [f"{hook.name}_u", f"{hook.name}_v"]
        if isinstance(part, _SpectralNorm):
            keys += ["_u", "_v"]
        yield from (f"{path}.{key}" if path else key for key in keys if key in part._buffers)
