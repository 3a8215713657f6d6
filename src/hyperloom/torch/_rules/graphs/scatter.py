"""`gather` and `scatter` inside `vmap`: their gradients; in `torch.compile`, one graph for all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperloom.torch._rules.graphs.ops import define
from hyperloom.torch._rules.registry import GRAPH, VMAP, Rule, rule
from hyperloom.torch._rules.standin import dense_leaf


def _in_front(info: Any, dims: Any, tensors: Any) -> list[Tensor]:
    """Return tensors with the conditions in front, also those that have none of their own."""
    return [
        t.unsqueeze(0).expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, dims, strict=True)
    ]


def _of_gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    return torch.gather(x, dim, index)


def _gather_rule(info: Any, in_dims: Any, x: Tensor, dim: int, index: Tensor) -> tuple[Tensor, int]:
    x, index = _in_front(info, (in_dims[0], in_dims[2]), (x, index))
    return _gathered(x, dim + 1, index), 0


_gathered = define(
    "gather", "(Tensor x, int dim, Tensor index) -> Tensor", _of_gather, _gather_rule
)


def _of_scatter(
    x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, include_self: bool
) -> Tensor:
    src = _used(src, index)
    if not reduce:
        return torch.scatter(x, dim, index, src)
    if reduce == "sum" and include_self:
        return torch.scatter_add(x, dim, index, src)
    return torch.scatter_reduce(x, dim, index, src, reduce, include_self=include_self)


def _used(src: Tensor, index: Tensor) -> Tensor:
    """Return the numbers that are put somewhere: PyTorch's own gradient is for these alone."""
    if src.ndim != index.ndim or src.shape == index.shape:
        return src
    return src[tuple(slice(size) for size in index.shape)]


def _scatter_rule(
    info: Any, in_dims: Any, x: Tensor, dim: int, index: Tensor, src: Tensor, *options: Any
) -> tuple[Tensor, int]:
    x, index, src = _in_front(info, (in_dims[0], *in_dims[2:4]), (x, index, src))
    return _scattered(x, dim + 1, index, src, *options), 0


_scattered = define(
    "scatter",
    "(Tensor x, int dim, Tensor index, Tensor src, str reduce, bool include_self) -> Tensor",
    _of_scatter,
    _scatter_rule,
)


@rule(torch.gather, Tensor.gather, when=GRAPH)
def _gather(
    input: Tensor,  # noqa: A002
    dim: int,
    index: Tensor,
    **kwargs: Any,
) -> Tensor:
    x = dense_leaf(input)
    if kwargs or x.ndim == 0 or x.ndim != index.ndim:
        return torch.gather(x, dim, index, **kwargs)
    return _gathered(x, dim % x.ndim, index)


@rule(torch.take_along_dim, Tensor.take_along_dim, when=GRAPH)
def _take_along(
    input: Tensor,  # noqa: A002
    indices: Tensor,
    dim: int | None = None,
    **kwargs: Any,
) -> Tensor:
    x = dense_leaf(input)
    if kwargs or (dim is not None and (x.ndim == 0 or x.ndim != indices.ndim)):
        return torch.take_along_dim(x, indices, dim, **kwargs)
    if dim is None:
        return _gathered(x.flatten(), 0, indices.flatten())
    dim = dim % x.ndim
    pairs = enumerate(zip(x.shape, indices.shape, strict=True))
    sizes = [max(a, b) if i != dim else -1 for i, (a, b) in pairs]
    return _gathered(x.expand(sizes), dim, indices.expand(sizes))


def _into(reduce: str, inplace: bool, function: Any) -> Rule:
    """Return a rule for a function that puts numbers at places.

    Args:
        reduce: What it does with the numbers there; empty for one that is told.
        inplace: Whether it writes into its input.
        function: For what the rule cannot do.
    """
    known = {"reduce", "include_self"} if reduce == "told" else set[str]()

    def put(
        input: Tensor,  # noqa: A002
        dim: int,
        index: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        x = dense_leaf(input)
        options = {**dict(zip(("src", "reduce"), args, strict=False)), **kwargs}
        src = dense_leaf(options.pop("src")) if "src" in options else options.pop("value", None)
        if set(options) - known or src is None or x.ndim == 0 or index.ndim != x.ndim:
            return function(x, dim, index, *args, **kwargs)
        if not isinstance(src, Tensor):
            src = x.new_full((), src).expand(index.shape)
        way = options.get("reduce", reduce)
        scattered = _scattered(x, dim % x.ndim, index, src, way, options.get("include_self", True))
        return x.copy_(scattered) if inplace else scattered

    return put


def _of_used(function: Any) -> Rule:
    """Return a function that puts numbers at places, with the gradient of those that it uses."""

    def put(
        input: Tensor,  # noqa: A002
        dim: int,
        index: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args = (_used(dense_leaf(args[0]), index), *args[1:])
        elif isinstance(kwargs.get("src"), Tensor):
            kwargs["src"] = _used(dense_leaf(kwargs["src"]), index)
        return function(dense_leaf(input), dim, index, *args, **kwargs)

    return put


for _way, _name in (("", "scatter"), ("sum", "scatter_add"), ("told", "scatter_reduce")):
    for _function in (getattr(torch, _name), getattr(Tensor, _name)):
        rule(_function, when=GRAPH)(_into(_way, False, _function))
        rule(_function, when=VMAP)(_of_used(_function))
    _written = getattr(Tensor, f"{_name}_")
    rule(_written, when=GRAPH)(_into(_way, True, _written))
