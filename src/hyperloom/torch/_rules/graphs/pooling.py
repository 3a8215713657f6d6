"""Pooling and resizing inside `vmap` inside `torch.compile`: one graph for all batches.

The conditions are folded into the rows, as in PyTorch's own rules, which fix their number.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom.torch._rules.graphs.ops import define_by_rows, on_rows, per_axis
from hyperloom.torch._rules.registry import GRAPH, Rule, rule
from hyperloom.torch._rules.standin import dense_leaf

_MAX: Any = F.max_pool1d, F.max_pool2d, F.max_pool3d
_MEAN: Any = F.avg_pool1d, F.avg_pool2d, F.avg_pool3d
_ADAPTIVE_MAX: Any = F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d
_ADAPTIVE_MEAN: Any = F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d


def _of_max(x: Tensor, kernel: list[int], *options: Any) -> Any:
    return _MAX[len(kernel) - 1](x, kernel, *options, return_indices=True)


def _of_mean(x: Tensor, kernel: list[int], *options: Any) -> Tensor:
    *rest, divisor = options
    more = () if len(kernel) == 1 else (divisor,)
    return _MEAN[len(kernel) - 1](x, kernel, *rest, *more)


def _of_adaptive_max(x: Tensor, sizes: list[int]) -> Any:
    return _ADAPTIVE_MAX[len(sizes) - 1](x, sizes, return_indices=True)


def _of_adaptive_mean(x: Tensor, sizes: list[int]) -> Tensor:
    return _ADAPTIVE_MEAN[len(sizes) - 1](x, sizes)


def _of_interpolate(x: Tensor, *options: Any) -> Tensor:
    return F.interpolate(x, *options)


def _of_unfold(x: Tensor, *options: Any) -> Tensor:
    return F.unfold(x, *options)


_max_pool = define_by_rows(
    "max_pool",
    "(Tensor x, int[] kernel, int[] stride, int[] padding, int[] dilation, bool ceil)"
    " -> (Tensor, Tensor)",
    _of_max,
)
_avg_pool = define_by_rows(
    "avg_pool",
    "(Tensor x, int[] kernel, int[] stride, int[] padding, bool ceil, bool count, int? divisor)"
    " -> Tensor",
    _of_mean,
)
_adaptive_max_pool = define_by_rows(
    "adaptive_max_pool", "(Tensor x, SymInt[] sizes) -> (Tensor, Tensor)", _of_adaptive_max
)
_adaptive_avg_pool = define_by_rows(
    "adaptive_avg_pool", "(Tensor x, SymInt[] sizes) -> Tensor", _of_adaptive_mean
)
_resized = define_by_rows(
    "interpolate",
    "(Tensor x, SymInt[]? size, float[]? scale, str mode, bool? corners, bool? recompute,"
    " bool antialias) -> Tensor",
    _of_interpolate,
)
_windows = define_by_rows(
    "unfold",
    "(Tensor x, int[] kernel, int[] dilation, int[] padding, int[] stride) -> Tensor",
    _of_unfold,
)


def _max_pools(axes: int, both: bool = False) -> Rule:
    def pool(
        input: Tensor,  # noqa: A002
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = both,
    ) -> Any:
        steps = stride if _given(stride) else kernel_size
        numbers = (per_axis(n, axes) for n in (kernel_size, steps, padding, dilation))
        pooled = on_rows(_max_pool, dense_leaf(input), axes + 1, *numbers, ceil_mode)
        return pooled if both or return_indices else pooled[0]

    return pool


def _avg_pools(axes: int) -> Rule:
    def pool(
        input: Tensor,  # noqa: A002
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        steps = stride if _given(stride) else kernel_size
        numbers = (per_axis(n, axes) for n in (kernel_size, steps, padding))
        options = (*numbers, ceil_mode, count_include_pad, divisor_override)
        return on_rows(_avg_pool, dense_leaf(input), axes + 1, *options)

    return pool


def _given(stride: Any) -> bool:
    return stride is not None and stride not in ((), [])


def _adaptive_pools(axes: int, largest: bool, both: bool = False) -> Rule:
    def pool(
        input: Tensor,  # noqa: A002
        output_size: Any,
        return_indices: bool = both,
    ) -> Any:
        x = dense_leaf(input)
        pairs = zip(per_axis(output_size, axes), x.shape[-axes:], strict=True)
        sizes = [width if size is None else size for size, width in pairs]
        pooled = on_rows(_adaptive_max_pool if largest else _adaptive_avg_pool, x, axes + 1, sizes)
        return pooled if not largest or both or return_indices else pooled[0]

    return pool


@rule(F.interpolate, when=GRAPH)
def _interpolate(
    input: Tensor,  # noqa: A002
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    x = dense_leaf(input)
    sizes, scales = (
        None if given is None else per_axis(given, x.ndim - 2) for given in (size, scale_factor)
    )
    scales = None if scales is None else [float(scale) for scale in scales]
    return _resized(x, sizes, scales, mode, align_corners, recompute_scale_factor, antialias)


@rule(F.unfold, when=GRAPH)
def _unfold(
    input: Tensor,  # noqa: A002
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    numbers = (per_axis(n, 2) for n in (kernel_size, dilation, padding, stride))
    return on_rows(_windows, dense_leaf(input), 3, *numbers)


_torch: Any = torch
for _n in (1, 2, 3):
    _both = (f"max_pool{_n}d_with_indices", f"adaptive_max_pool{_n}d_with_indices")
    rule(getattr(F, f"max_pool{_n}d"), getattr(_torch, f"max_pool{_n}d"), when=GRAPH)(
        _max_pools(_n)
    )
    rule(getattr(F, _both[0]), when=GRAPH)(_max_pools(_n, both=True))
    rule(getattr(F, f"avg_pool{_n}d"), when=GRAPH)(_avg_pools(_n))
    rule(getattr(F, f"adaptive_avg_pool{_n}d"), when=GRAPH)(_adaptive_pools(_n, largest=False))
    rule(getattr(F, f"adaptive_max_pool{_n}d"), when=GRAPH)(_adaptive_pools(_n, largest=True))
    rule(getattr(F, _both[1]), when=GRAPH)(_adaptive_pools(_n, largest=True, both=True))
rule(torch.adaptive_max_pool1d, when=GRAPH)(_adaptive_pools(1, largest=True, both=True))
