"""Generated vectors beside rows, and what a stand-in tells without numbers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from hyperloom.torch._rules.registry import ROWS, Rule, rule
from hyperloom.torch._rules.rows.standin import (
    MIXING,
    SHAPE_ONLY,
    TOLD,
    Meeting,
    RowWise,
)
from hyperloom.torch._weights.rows import NotRowsError

_OPERATORS = "add sub mul truediv floordiv mod pow eq ne lt le gt ge and or xor"
_FUNCTIONS = """
add sub subtract mul multiply div divide true_divide floor_divide fmod remainder pow float_power
maximum minimum max min eq ne lt le gt ge greater less atan2 hypot lerp addcmul addcdiv where
masked_fill clamp clip copysign logaddexp logical_and logical_or logical_xor rsub ldexp xlogy
isclose heaviside nextafter
"""
_JOINING = "cat concat concatenate stack hstack"


def _functions(name: str) -> list[Any]:
    """Return the functions and methods of a name, in place too."""
    candidates = (getattr(owner, n, None) for owner in (torch, Tensor) for n in (name, f"{name}_"))
    return [function for function in candidates if function is not None]


def _beside(func: Any) -> Rule:
    """Return the rule for a function that treats every number alike, or the numbers of a row."""

    def run(meeting: Meeting, *args: Any, **kwargs: Any) -> Any:
        rows = [leaf for leaf in tree_leaves((args, kwargs)) if _has_rows(leaf)]
        widest = max(rows, key=lambda tensor: tensor.ndim)
        if meeting.axis:
            raise NotRowsError("generated tensors beside rows that are not in front")

        def lay(leaf: Any) -> Any:
            if not isinstance(leaf, RowWise):
                return leaf
            return meeting.beside(leaf, len(widest), widest.ndim)

        args, kwargs = tree_map(lay, (args, kwargs))
        return func(*args, **kwargs)

    return run


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, RowWise) and leaf.ndim > 0


def _joined(func: Any) -> Rule:
    """Return the rule for functions that lay rows of tensors beside each other."""
    beside = _beside(func)

    def run(meeting: Meeting, tensors: Any, *args: Any, **kwargs: Any) -> Tensor:
        axis = kwargs.get("dim", args[0] if args else 1 if func is torch.hstack else 0)
        if axis % (max(t.ndim for t in tensors) + (func is torch.stack)) == 0:
            raise NotRowsError("generated tensors joined to rows as further rows")
        return beside(meeting, tuple(tensors), *args, **kwargs)

    return run


@rule(Tensor.__setitem__, when=ROWS)
def _written(meeting: Meeting, x: Any, index: Any, value: Any) -> None:
    """`x[index] = value` of generated numbers."""
    if isinstance(x, RowWise):
        raise NotRowsError(f"writing rows into {x.label!r}")
    first = index[0] if isinstance(index, tuple) and index else index
    if not (first is Ellipsis or (isinstance(first, slice) and first == slice(None))):
        raise NotRowsError("generated numbers written into some rows")
    place = x[index]
    x[index] = meeting.beside(value, len(place), place.ndim)


@rule(F.prelu, when=ROWS)  # torch.prelu is the same function
def _prelu(meeting: Meeting, input: Any, weight: Any) -> Tensor:  # noqa: A002
    x = meeting.input(input)
    after = max(0, x.ndim - 2)
    slope = meeting.vector(weight, x, after) if weight.numel() > 1 or x.ndim < 2 else None
    if slope is None:
        slope = meeting.vector(weight, x)
    return torch.where(x >= 0, x, slope * x)


_forms = (f"__{side}{name}__" for name in _OPERATORS.split() for side in ("", "r", "i"))
_operators = (getattr(Tensor, form, None) for form in _forms)
_named = (function for name in _FUNCTIONS.split() for function in _functions(name))
# Attention is here for generated keys, or a generated mask: relative places.
_elementwise = {f for f in (*_named, *_operators) if f is not None}
_elementwise.add(F.scaled_dot_product_attention)
for _function in _elementwise:
    rule(_function, when=ROWS)(_beside(_function))
_joining = {getattr(torch, name) for name in _JOINING.split()}
for _function in _joining:
    rule(_function, when=ROWS)(_joined(_function))
MIXING.update(_elementwise | _joining | {Tensor.__setitem__})


# ---- what is told without numbers ---------------------------------------------------------------


def _is_matrix(tensor: RowWise, *dims: int) -> bool:
    return tensor.ndim == 2 and {d % 2 for d in dims} == {0, 1}


def _turned(tensor: RowWise, *dims: int) -> Any:
    if _is_matrix(tensor, *(dims or (0, 1))):
        return tensor.turned()
    return NotImplemented


def _get(name: str) -> Any:
    return getattr(Tensor, name).__get__


def _requires_grad(tensor: RowWise) -> bool:
    grown = (v for v in vars(tensor.weight).values() if isinstance(v, Tensor))
    return tensor.kind.is_floating_point and any(value.requires_grad for value in grown)


def _to(tensor: RowWise, *args: Any, **kwargs: Any) -> Any:
    """`tensor.to(...)`: another dtype keeps the form; another device there is none."""
    dtype = kwargs.get("dtype", tensor.kind)
    for arg in (*args, kwargs.get("other"), kwargs.get("device")):
        if isinstance(arg, torch.dtype):
            dtype = arg
        elif isinstance(arg, Tensor):
            dtype, arg = arg.dtype, arg.device
        if isinstance(arg, (str, torch.device, int)) and not isinstance(arg, bool):
            wanted = torch.device(arg)
            if wanted.type != tensor.meeting.device.type:
                raise NotRowsError(f"{tensor.label!r} moved to {wanted}")
    return tensor.converted(dtype)


TOLD.update(
    {
        _get("device"): lambda tensor: tensor.meeting.device,
        _get("dtype"): lambda tensor: tensor.kind,
        _get("is_meta"): lambda tensor: False,
        _get("is_cuda"): lambda tensor: tensor.meeting.device.type == "cuda",
        _get("is_cpu"): lambda tensor: tensor.meeting.device.type == "cpu",
        _get("requires_grad"): _requires_grad,
        _get("is_leaf"): lambda tensor: not _requires_grad(tensor),
        Tensor.is_floating_point: lambda tensor: tensor.kind.is_floating_point,
        Tensor.is_complex: lambda tensor: tensor.kind.is_complex,
        torch.is_floating_point: lambda tensor: tensor.kind.is_floating_point,
        torch.is_complex: lambda tensor: tensor.kind.is_complex,
        Tensor.is_contiguous: lambda tensor, **_: True,
        Tensor.contiguous: lambda tensor, **_: tensor,
        Tensor.get_device: lambda tensor: tensor.meeting.device.index or -1,
        Tensor.__deepcopy__: lambda tensor, memo: tensor,
        Tensor.__hash__: lambda tensor: id(tensor),
        Tensor.__repr__: lambda tensor, **_: (
            f"<generated {tensor.label!r}, {tuple(tensor.shape)}, {tensor.kind}>"
        ),
        **dict.fromkeys((torch.t, Tensor.t, _get("T"), _get("mT"), Tensor.adjoint), _turned),
        **dict.fromkeys((torch.transpose, Tensor.transpose), _turned),
        Tensor.to: _to,
        Tensor.type_as: lambda tensor, other: tensor.converted(other.dtype),
        Tensor.float: lambda tensor, **_: tensor.converted(torch.float32),
        Tensor.double: lambda tensor, **_: tensor.converted(torch.float64),
        Tensor.half: lambda tensor, **_: tensor.converted(torch.float16),
        Tensor.bfloat16: lambda tensor, **_: tensor.converted(torch.bfloat16),
    }
)
_SHAPES = """
shape ndim layout is_sparse is_nested is_quantized itemsize nbytes is_mkldnn is_xpu is_mps
grad_fn
"""
SHAPE_ONLY.update(map(_get, _SHAPES.split()))
SHAPE_ONLY.update({Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.nelement})
SHAPE_ONLY.update({Tensor.__len__, Tensor.element_size, Tensor.stride, Tensor.is_inference})
SHAPE_ONLY.add(torch.numel)
