"""What `vmap` hides from code that looks: answered as outside, or refused.

Inside `vmap` a tensor says that no gradient is taken, and hooks that are put on it are never
called: branches would go the other way, without an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyperloom.torch._rules.standin import Generated, dense_leaf
from hyperloom.torch._target.functions import NotAtOnceError
from hyperloom.torch._target.private import in_front, is_batched, take_gradient_inside, unwrapped
from hyperloom.torch._weights.weights import parts_of


class OneByOneError(NotAtOnceError):
    """The target can only be run one condition after the other: not once for all rows either."""


def take_gradient(tensor: Tensor, given: frozenset[int], requires_grad: bool = True) -> bool:
    """Have gradients taken for a tensor that the target has made apart from all others.

    Outside of `vmap` it is one tensor with the conditions in front, and comes out as it is. Return
    whether that was done: not for an input (`given`, by `id`), a tensor without conditions, or one
    whose conditions are not in front.
    """
    if not requires_grad or isinstance(tensor, Generated) or not in_front(tensor):
        return False
    outer = _outermost(tensor)
    if id(outer) in given or outer.requires_grad or not outer.is_floating_point():
        return False
    take_gradient_inside(outer)
    return True


def refuse_hidden(func: Any, kwargs: Any) -> None:
    """Raise for a function that has no meaning inside `vmap`.

    Raises:
        OneByOneError: It draws from a generator of the target's own, or has to do with gradients.
    """
    if func in ON_GRADIENTS:
        name = getattr(func, "__name__", str(func))
        raise OneByOneError(f"it calls {name}, which would not be called for each condition")
    if kwargs.get("generator") is not None:
        raise OneByOneError("it draws random numbers from a generator of its own")


def _outermost(tensor: Tensor) -> Tensor:
    """Return what a tensor is outside of `vmap`, where gradients are taken."""
    while is_batched(tensor):
        tensor = unwrapped(tensor)
    return tensor


def _requires_grad(tensor: Tensor) -> bool:
    if isinstance(tensor, Generated):
        return tensor.modes.grad and any(map(_requires_grad, parts_of(tensor.weight)))
    return _outermost(tensor).requires_grad


def _grad_fn(tensor: Tensor) -> Any:
    if isinstance(tensor, Generated):
        return _outermost(dense_leaf(tensor)).grad_fn if _requires_grad(tensor) else None
    return _outermost(tensor).grad_fn


def _is_leaf(tensor: Tensor) -> bool:
    return not _requires_grad(tensor) or _grad_fn(tensor) is None


ANSWERED: dict[Any, Callable[[Tensor], Any]] = {
    Tensor.requires_grad.__get__: _requires_grad,  # type: ignore[attr-defined]
    Tensor.grad_fn.__get__: _grad_fn,  # type: ignore[attr-defined]
    Tensor.is_leaf.__get__: _is_leaf,  # type: ignore[attr-defined]
}
LEAVES = frozenset((Tensor.requires_grad_, Tensor.requires_grad.__set__))  # type: ignore[attr-defined]
ON_GRADIENTS = LEAVES | frozenset(
    (
        Tensor.register_hook,
        Tensor.register_post_accumulate_grad_hook,
        Tensor.retain_grad,
        Tensor.backward,
        torch.autograd.grad,
        torch.autograd.backward,
    )
)
