"""The dtypes that a function returns outside of `vmap`: PyTorch is asked, not assumed.

They depend on the device, on autocast, and on the processor: under autocast to bfloat16
`torch.lstm` returns bfloat16 where the processor multiplies in it, and float32 elsewhere (seen on
torch 2.13).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from hyperloom.torch._rules.standin import dense_tree

_MOST = 512
_known: dict[Any, tuple[torch.dtype | None, ...] | None] = {}


def as_plain(function: Any, rule: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a rule whose results have the dtypes that the function itself returns.

    Args:
        function: A function of PyTorch.
        rule: What runs in its place, where that is another one.
    """
    run = rule or function

    def converted(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = (args, kwargs) if rule else (dense_tree(args), dense_tree(kwargs))
        floats = [t for t in tree_flatten((args, kwargs))[0] if _is_float(t)]
        if not floats or (len({t.dtype for t in floats}) == 1 and not _autocast(floats[0])):
            return run(*args, **kwargs)
        wanted = _asked(function, args, kwargs, floats)
        if rule is None:
            args, kwargs = _widened(args, kwargs, floats)
        leaves, spec = tree_flatten(run(*args, **kwargs))
        if wanted is not None and len(wanted) == len(leaves):
            leaves = [
                y if dtype is None or y.dtype == dtype else y.to(dtype)
                for y, dtype in zip(leaves, wanted, strict=True)
            ]
        return tree_unflatten(leaves, spec)

    return converted


def _widened(args: Any, kwargs: Any, floats: list[Tensor]) -> Any:
    """Convert to float32 what is narrower beside it: kernels can, `vmap`'s rules cannot.

    What is wider stays as it is, so that running statistics are written where they are.
    """
    if len({t.dtype for t in floats}) == 1:
        return args, kwargs

    def leaf(value: Any) -> Any:
        return value.float() if _is_float(value) and value.itemsize < 4 else value

    return tree_map(leaf, args), tree_map(leaf, kwargs)


def _asked(
    function: Any, args: Any, kwargs: Any, floats: list[Tensor]
) -> tuple[torch.dtype | None, ...] | None:
    """Return the dtypes of what a function returns for one condition; `None` if it fails.

    It is run on ones of the shapes given, once for each kind of call, and in graphs as often as
    they are traced.
    """
    if torch.compiler.is_compiling():
        return _returned(function, args, kwargs)
    key = (
        function,
        tuple(t.dtype for t in floats),
        floats[0].device,
        _autocast(floats[0]),
        torch.is_grad_enabled(),
        torch.backends.mkldnn.enabled,
    )
    if key not in _known:
        if len(_known) >= _MOST:
            _known.clear()
        state = torch.get_rng_state()  # a recurrent layer may draw for its dropout
        try:
            _known[key] = _returned(function, args, kwargs)
        except (RuntimeError, NotImplementedError):
            _known[key] = None  # the processor, or the function, cannot
        finally:
            torch.set_rng_state(state)
    return _known[key]


def _returned(function: Any, args: Any, kwargs: Any) -> tuple[torch.dtype | None, ...]:
    def ones(value: Any) -> Any:
        if not isinstance(value, Tensor) or not _is_float(value):
            return value
        return torch.ones(value.shape, dtype=value.dtype, device=value.device)

    outputs = function(*tree_map(ones, dense_tree(args)), **tree_map(ones, dense_tree(kwargs)))
    leaves = tree_flatten(outputs)[0]
    return tuple(y.dtype if isinstance(y, Tensor) else None for y in leaves)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _autocast(tensor: Tensor) -> torch.dtype | None:
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
