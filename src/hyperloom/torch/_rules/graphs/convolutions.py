"""Convolutions inside `vmap` inside `torch.compile`: one graph for all numbers of conditions.

The kernels of all conditions are one convolution with groups, as in PyTorch's own rule. While the
number of conditions is known that is PyTorch's operation, which compilers know. While it is a
symbol it is an operation that compilers leave alone: they would fix the number of groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyperloom.torch._rules.graphs.ops import define, on_rows, per_axis
from hyperloom.torch._target.private import transformed

_SIGNATURE = (
    "(Tensor x, Tensor w, int[] stride, int[] padding, int[] dilation, bool transposed, "
    "int[] output_padding, SymInt groups) -> Tensor"
)


def _convolution(x: Tensor, w: Tensor, *options: Any) -> Tensor:
    if isinstance(options[-1], torch.SymInt) and not transformed():
        return _grouped(x, w, *options)
    return torch.convolution(x, w, None, *options)


def _rule(info: Any, in_dims: Any, x: Tensor, w: Tensor, *options: Any) -> tuple[Tensor, int]:
    num, (x_dim, w_dim, *_) = info.batch_size, in_dims
    *rest, groups = options
    if w_dim is None:
        rows = x.movedim(x_dim, 0)
        y = _OPERATION(rows.flatten(0, 1), w, *rest, groups)
        return y.unflatten(0, (num, rows.shape[1])), 0
    transposed = rest[3]
    w = w.movedim(w_dim, 0)
    outputs = w.shape[2] * groups if transposed else w.shape[1]
    if x_dim is None and isinstance(groups, int) and groups == 1:
        axis = 1 if transposed else 0  # of outputs in a kernel; one wide kernel for all
        y = _OPERATION(x, w.movedim(0, axis).flatten(axis, axis + 1), *rest, groups)
    else:
        x = x.unsqueeze(0).expand(num, *x.shape) if x_dim is None else x.movedim(x_dim, 0)
        channels = x.transpose(0, 1).flatten(1, 2)
        y = _OPERATION(channels, w.flatten(0, 1), *rest, groups * num)
    return y.unflatten(1, (num, outputs)), 1


_OPERATION = define("convolution", _SIGNATURE, _convolution, _rule)


@torch.library.custom_op("hyperloom::grouped_convolution", mutates_args=())
def _grouped(
    x: Tensor,
    w: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    options = (stride, padding, dilation, transposed, output_padding, groups)
    return torch.convolution(x.contiguous(), w.contiguous(), None, *options).contiguous()


@_grouped.register_fake
def _grouped_shape(
    x: Tensor,
    w: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    sizes: list[Any] = []
    for axis, (step, pad, spread) in enumerate(zip(stride, padding, dilation, strict=True), 2):
        reach = spread * (w.shape[axis] - 1)
        if transposed:
            sizes.append(
                (x.shape[axis] - 1) * step - 2 * pad + reach + output_padding[axis - 2] + 1
            )
        else:
            sizes.append((x.shape[axis] + 2 * pad - reach - 1) // step + 1)
    outputs = w.shape[1] * groups if transposed else w.shape[0]
    return x.new_empty((x.shape[0], outputs, *sizes))


@torch.library.custom_op("hyperloom::grouped_convolution_backward", mutates_args=())
def _backward(
    grad: Tensor,
    x: Tensor,
    w: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    wanted: list[bool],
) -> tuple[Tensor, Tensor]:
    options = (stride, padding, dilation, transposed, output_padding, groups, [*wanted, False])
    given = grad.contiguous(), x.contiguous(), w.contiguous()
    gradients = torch.ops.aten.convolution_backward(*given, None, *options)
    parts = zip(gradients, (x, w), wanted, strict=False)
    x_grad, w_grad = (g.contiguous() if need else of.new_empty(0) for g, of, need in parts)
    return x_grad, w_grad


@_backward.register_fake
def _backward_shapes(grad: Tensor, x: Tensor, w: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    parts = zip((x, w), options[-1], strict=True)
    x_grad, w_grad = (of.new_empty(of.shape if need else (0,)) for of, need in parts)
    return x_grad, w_grad


def _remember(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, w, *ctx.options = inputs
    ctx.save_for_backward(x, w)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    wanted = list(ctx.needs_input_grad[:2])
    gradients = _backward(grad, *ctx.saved_tensors, *ctx.options, wanted)
    none = [None] * len(ctx.options)
    return *(g if need else None for g, need in zip(gradients, wanted, strict=True)), *none


_grouped.register_autograd(_differentiate, setup_context=_remember)


def convolution(axes: int) -> Callable[..., Tensor]:
    """Return `F.conv1d`, `F.conv2d` or `F.conv3d` for `vmap` in graphs."""

    def conv(
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        dilation = per_axis(dilation, axes)
        if padding == "same":
            reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            padding = [total // 2 for total in reach]
            odd = [n for total in reversed(reach) for n in (0, total % 2)]
            input = torch.nn.functional.pad(input, odd) if any(odd) else input  # noqa: A001
        padding = per_axis(0 if padding == "valid" else padding, axes)
        options = (per_axis(stride, axes), padding, dilation, False, [0] * axes, groups)
        return _biased(on_rows(_OPERATION, input, axes + 1, weight, *options), bias, axes)

    return conv


def transposed(axes: int) -> Callable[..., Tensor]:
    """Return `F.conv_transpose1d`, `2d` or `3d` for `vmap` in graphs."""

    def conv(
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Tensor:
        numbers = (per_axis(n, axes) for n in (stride, padding, dilation))
        options = (*numbers, True, per_axis(output_padding, axes), groups)
        return _biased(on_rows(_OPERATION, input, axes + 1, weight, *options), bias, axes)

    return conv


def _biased(y: Tensor, bias: Tensor | None, axes: int) -> Tensor:
    return y if bias is None else y + bias.to(y.dtype).reshape(-1, *(1,) * axes)
