"""A tensor that stands for a generated weight inside an unmodified module.

A module that calls `F.linear(x, self.weight, self.bias)` reaches the weight's own way of doing
that; any other use gets the dense tensor. Inside `vmap` only: conditions are hidden.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom.torch._rules.graphs import convolutions
from hyperloom.torch._target.placeholder import PlaceholderError, empty_like
from hyperloom.torch._weights.weights import Dense, Weight

Rule = Callable[..., Any]


class Modes(NamedTuple):
    """Whether gradients are taken, and what autocast does on a device."""

    grad: bool
    inference: bool
    autocast: bool
    low: torch.dtype
    device: str

    @staticmethod
    def now(device: str) -> Modes:
        """Return the modes that are in force."""
        low, cast = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        inference = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
        return Modes(torch.is_grad_enabled(), inference, cast, low, device)

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        """Run a function in these modes."""
        if self == Modes.now(self.device):
            return function()
        autocast = torch.autocast(self.device, self.low, self.autocast)
        if torch.compiler.is_compiling():  # a graph knows no inference mode
            with autocast, torch.set_grad_enabled(self.grad):
                return function()
        # In this order: to leave or enter inference mode sets what becomes of gradients.
        with torch.inference_mode(self.inference), torch.set_grad_enabled(self.grad), autocast:
            return function()


class Generated(Tensor):
    """Stands for a `Weight`: a shape and a dtype, numbers on demand."""

    weight: Weight
    kind: torch.dtype
    modes: Modes

    @staticmethod
    def of(weight: Weight, dtype: torch.dtype) -> Generated:
        """Return a stand-in for a weight whose conditions are hidden."""
        if torch.compiler.is_compiling():  # a graph has no other tensors without numbers
            made = torch.empty(weight.shape, dtype=dtype, device="meta").as_subclass(Generated)
        else:
            made = empty_like(Guarded, weight.shape, dtype, weight.owned[0].device)
        made.weight = weight
        made.kind = dtype
        made.modes = Modes.now(weight.owned[0].device.type)
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SHAPE_ONLY:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        rule = _RULES.get(func)
        if rule is not None:
            return rule(*args, **kwargs)
        return func(*_dense(args), **_dense(kwargs))


class Guarded(Generated):
    """A stand-in that raises where code that does not come to `__torch_function__` uses it.

    Scripted functions, and transforms inside the target. Graphs do without: torch.compile traces
    everything, and takes no such class.
    """

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise PlaceholderError(
            f"code that PyTorch's overrides do not reach uses a generated tensor ({func.name()})"
        )


def _dense(tree: Any) -> Any:
    """Replace stand-ins by dense tensors, in tuples, lists and dicts.

    The stand-in is dense from then on: code that writes into what it got must see its writes.
    """
    if isinstance(tree, Generated):
        weight = tree.weight
        if not isinstance(weight, Dense):
            weight.note("other", "dense")
            # It is kept: what is in force where it is read first must not matter.
            value = tree.modes.run(lambda: weight.dense().to(tree.kind))
            tree.weight = weight = Dense(weight.name, weight.shape, weight.num, value, lead=0)
        return weight.value
    if isinstance(tree, (tuple, list)):
        made = [_dense(item) for item in tree]
        return type(tree)(*made) if hasattr(tree, "_fields") else type(tree)(made)
    if isinstance(tree, dict):
        return {key: _dense(value) for key, value in tree.items()}
    return tree


def dense_tree(tree: Any) -> Any:
    """Replace stand-ins by dense tensors, in tuples, lists and dicts."""
    return _dense(tree)


def dense_leaf(tensor: Tensor) -> Tensor:
    """Return the dense tensor of a stand-in, and any other tensor as it is."""
    return _dense(tensor)


# `input` is how torch names it, and it may be given by name.
def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
    if not isinstance(weight, Generated):
        return F.linear(_dense(input), weight, _dense(bias))
    y = weight.weight.linear(_dense(input))
    return y if bias is None else y + _dense(bias).to(y.dtype)


def as_autocast(x: Tensor) -> Tensor:
    """Convert as autocast would; inside vmap it does not for convolutions (torch 2.13)."""
    kind = x.device.type
    convertible = x.is_floating_point() and x.dtype != torch.float64
    if not convertible or not torch.is_autocast_enabled(kind):
        return x
    return x.to(torch.get_autocast_dtype(kind))


def _convolution(plain: Any, graphed: Any, transposed: bool) -> Rule:
    """Return the rule for a convolution whose bias and options come after the weight.

    Args:
        plain: The function of PyTorch.
        graphed: The same, for `vmap` in graphs.
        transposed: Whether it is a transposed one.
    """

    def rule(
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        x = as_autocast(_dense(input))
        in_graph = torch.compiler.is_compiling() and not x.is_complex()
        conv = graphed if in_graph else plain
        if not isinstance(weight, Generated):
            return conv(x, weight, _dense(bias), *args, **kwargs)
        groups = kwargs.get("groups", args[3] if len(args) > 3 else 1)

        def apply(x: Tensor, kernel: Tensor, times: int) -> Tensor:
            return conv(x, as_autocast(kernel), None, *args, **kwargs)

        y = weight.weight.convolve(apply, x, transposed, groups)
        if bias is None:
            return y
        spatial = len(weight.weight.shape) - 2
        return y + _dense(bias).to(y.dtype).reshape(-1, *(1,) * spatial)

    return rule


def embedding(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    if max_norm is not None or scale_grad_by_freq or sparse:
        options = (padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
        return F.embedding(_dense(input), _dense(weight), *options)
    ids = _dense(input)
    if padding_idx is None and isinstance(weight, Generated):
        with torch.autocast(weight.modes.device, enabled=False):  # it leaves a look-up alone
            return weight.weight.embed(ids).to(weight.kind)
    dense = _dense(weight)
    if padding_idx is not None:  # its row gets no gradient; vmap over F.embedding forgets that
        rows = torch.arange(len(dense), device=dense.device).unsqueeze(-1)
        dense = torch.where(rows == padding_idx % len(dense), dense.detach(), dense)
    # vmap's rule for F.embedding reads the number of conditions: a graph for each.
    return dense[ids] if torch.compiler.is_compiling() else F.embedding(ids, dense)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `F.bilinear` as one product."""
    # As one product: vmap has no rule for bilinear and would loop.
    outer = (_dense(input1).unsqueeze(-1) * _dense(input2).unsqueeze(-2)).flatten(-2)
    y = outer @ _dense(weight).flatten(1).mT
    return y if bias is None else y + _dense(bias)


_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def without_override_check(function: Any, **replaced: Any) -> Any:
    """Return a copy of a Python function of torch that does not look for overrides again.

    The functions it calls then see the stand-ins and take them their own way; calling the
    function itself would come straight back here. `replaced` stands in for functions it calls.
    """
    scope = {**function.__globals__, **dict.fromkeys(_CHECKS, lambda *_: False), **replaced}
    made = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _device(tensor: Generated) -> torch.device:
    return tensor.weight.owned[0].device


def _size(tensor: Generated, dim: int | None = None) -> Any:
    return tensor.weight.shape if dim is None else tensor.weight.shape[dim]


_SHAPE_ONLY = {
    Tensor.is_sparse.__get__,  # type: ignore[attr-defined]
    Tensor.is_nested.__get__,  # type: ignore[attr-defined]
    Tensor.is_quantized.__get__,  # type: ignore[attr-defined]
    Tensor.layout.__get__,  # type: ignore[attr-defined]
}

CONVOLUTIONS: dict[Any, Rule] = {
    **{
        getattr(F, f"conv{n}d"): _convolution(
            getattr(F, f"conv{n}d"), convolutions.convolution(n), False
        )
        for n in (1, 2, 3)
    },
    **{
        getattr(F, f"conv_transpose{n}d"): _convolution(
            getattr(F, f"conv_transpose{n}d"), convolutions.transposed(n), True
        )
        for n in (1, 2, 3)
    },
}

# Told without asking the tensor: torch.compile would come back here to answer, for ever.
_RULES: dict[Any, Rule] = {
    Tensor.device.__get__: _device,  # type: ignore[attr-defined]
    Tensor.dtype.__get__: lambda tensor: tensor.kind,  # type: ignore[attr-defined]
    Tensor.shape.__get__: lambda tensor: tensor.weight.shape,  # type: ignore[attr-defined]
    Tensor.ndim.__get__: lambda tensor: len(tensor.weight.shape),  # type: ignore[attr-defined]
    Tensor.dim: lambda tensor: len(tensor.weight.shape),
    Tensor.size: _size,
    Tensor.numel: lambda tensor: tensor.weight.shape.numel(),
    Tensor.is_floating_point: lambda tensor: tensor.kind.is_floating_point,
    Tensor.is_complex: lambda tensor: tensor.kind.is_complex,
    Tensor.__len__: lambda tensor: tensor.weight.shape[0],
    F.linear: _linear,
    F.embedding: embedding,
    F.bilinear: bilinear,
    F.multi_head_attention_forward: without_override_check(F.multi_head_attention_forward),
    **CONVOLUTIONS,
}
