"""Autocast inside `vmap`, which takes functions apart before autocast sees them.

Autocast picks a dtype by the name of an operation. Where `vmap` replaces an operation by others,
the result has another dtype than outside `vmap` (pytorch issue 192617, seen on torch 2.13). The
rules here convert the arguments first, as autocast would have done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from hyperloom.torch._rules.registry import AUTOCAST, Rule, rule
from hyperloom.torch._rules.standin import Generated, as_autocast, dense_tree


def _active(args: Any, kwargs: Any) -> str:
    """Return the device for which autocast is on; empty if it is off."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            kind = value.device.type
            return kind if torch.is_autocast_enabled(kind) else ""
    return ""


def _converted(function: Any, convert: Callable[[Tensor], Tensor], only: str = "") -> Rule:
    """Return a function that converts its tensors where autocast is on.

    Args:
        function: The function.
        convert: Returns a tensor in another dtype.
        only: The device on which autocast does that; empty for all.
    """

    def leaf(value: Any) -> Any:
        return convert(value) if isinstance(value, Tensor) else value

    def converted(*args: Any, **kwargs: Any) -> Any:
        kind = _active(args, kwargs)
        # The rule for a layer's function on a stand-in converts by itself.
        converts_itself = function in WITH_WEIGHT and any(isinstance(a, Generated) for a in args)
        if not kind or converts_itself or (only and kind != only):
            return function(*args, **kwargs)
        args, kwargs = dense_tree(args), dense_tree(kwargs)
        return function(*tree_map(leaf, args), **tree_map(leaf, kwargs))

    return converted


def _single(x: Tensor) -> Tensor:
    """Convert to float32 what autocast converts."""
    wide = x.dtype in (torch.float32, torch.float64)
    return x.float() if x.is_floating_point() and not wide else x


def _left_alone(function: Any) -> Rule:
    """Return a function that autocast does not know, but knows what `vmap` makes of it."""

    def without(*args: Any, **kwargs: Any) -> Any:
        kind = _active(args, kwargs)
        if not kind:
            return function(*args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return function(*args, **kwargs)

    return without


WITH_WEIGHT = (
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
    F.prelu,
)
_PRODUCTS = (
    torch.addmm,
    Tensor.addmm,
    torch.addbmm,
    Tensor.addbmm,
    torch.baddbmm,
    Tensor.baddbmm,
    torch.linalg.vecdot,
)
_UNKNOWN = (torch.dot, Tensor.dot, torch.mv, Tensor.mv)
# In float32, on all devices and on the CPU only.
_LOSSES = (
    F.cross_entropy,
    F.nll_loss,
    F.l1_loss,
    F.binary_cross_entropy_with_logits,
    F.poisson_nll_loss,
    F.cosine_embedding_loss,
    F.hinge_embedding_loss,
    torch.cdist,
)
_ON_CPU = (
    torch.max_pool3d,
    F.max_pool3d,
    F.adaptive_avg_pool3d,
    torch.trace,
    Tensor.trace,
    torch.linalg.solve,
    torch.fft.fft,
    torch.fft.ifft,
    torch.fft.rfft,
    torch.fft.irfft,
    torch.fft.fft2,
    torch.fft.ifft2,
    torch.fft.rfft2,
    torch.fft.irfft2,
    torch.fft.fftn,
    torch.fft.ifftn,
    torch.fft.rfftn,
    torch.fft.irfftn,
)

for _function in (*WITH_WEIGHT, *_PRODUCTS):
    rule(_function, when=AUTOCAST)(_converted(_function, as_autocast))
for _function in _UNKNOWN:
    rule(_function, when=AUTOCAST)(_left_alone(_function))
for _function in _LOSSES:
    rule(_function, when=AUTOCAST)(_converted(_function, _single))
for _function in _ON_CPU:
    rule(_function, when=AUTOCAST)(_converted(_function, _single, "cpu"))
