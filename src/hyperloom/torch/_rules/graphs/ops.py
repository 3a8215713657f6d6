"""Operations of our own for graphs: each is a function of PyTorch with another rule for `vmap`.

PyTorch's rules read the number of conditions as a plain number, and so fix it in a graph. An
operation here calls PyTorch's function everywhere but inside `vmap`; there a rule in Python folds
the conditions into another axis, with sizes that may be symbols, and calls the operation again, so
that nested `vmap`s come one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

_LIBRARY = torch.library.Library("hyperloom", "FRAGMENT")
_OPS: Any = torch.ops

Function = Callable[..., Any]


def define(name: str, signature: str, function: Function, rule: Function) -> Any:
    """Return a new operation.

    Args:
        name: Its name in `torch.ops.hyperloom`.
        signature: Arguments and results, as in PyTorch's schemas.
        function: What it does; differentiated and traced as what it calls.
        rule: What it does inside `vmap`, as `torch.library.register_vmap` wants it.
    """
    _LIBRARY.define(f"{name}{signature}")
    _LIBRARY.impl(name, function, "CompositeImplicitAutograd")
    torch.library.register_vmap(f"hyperloom::{name}", rule, lib=_LIBRARY)
    return getattr(_OPS.hyperloom, name)


def define_by_rows(name: str, signature: str, function: Function) -> Any:
    """Return an operation whose first argument has rows in front that it treats alike.

    Inside `vmap` all conditions' rows are one row after the other.
    """

    def rule(info: Any, in_dims: Any, x: Tensor, *options: Any) -> Any:
        num, rows = info.batch_size, x.movedim(in_dims[0], 0)
        outputs = operation(rows.flatten(0, 1), *options)
        split = tree_map(lambda y: y.unflatten(0, (num, rows.shape[1])), outputs)
        return split, tree_map(lambda _: 0, split)

    operation = define(name, signature, function, rule)
    return operation


def on_rows(operation: Any, x: Tensor, ndim: int, *options: Any) -> Any:
    """Call an operation on rows of `ndim` axes, or on one row, without an axis for it."""
    if x.ndim > ndim:
        return operation(x, *options)
    return tree_map(lambda y: y.squeeze(0), operation(x.unsqueeze(0), *options))


def per_axis(value: Any, axes: int) -> list[Any]:
    """Return one number for each axis, from one for all or a sequence (of one, or of all)."""
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    return numbers * axes if len(numbers) == 1 else numbers
