"""Chains of simple layers, run on a batch of conditions without `vmap`.

A target made of `Sequential`, `Linear`, `LayerNorm` and elementwise modules does the same to an
input with conditions in front as `vmap` would, and does it with less overhead. Only classes that
are known to are taken, exactly (no subclasses), and only without hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom.torch._structured import Weight, linear_each

# Weight objects, dense tensors (B, *shape), or tensors (*shape) that all conditions share.
Weights = Mapping[str, Weight | Tensor]
Step = Callable[[Weights, Tensor], Tensor]
Names = Mapping[int, Mapping[str, str]]

_ELEMENTWISE = frozenset(
    {
        nn.CELU,
        nn.Dropout,
        nn.ELU,
        nn.GELU,
        nn.Hardsigmoid,
        nn.Hardswish,
        nn.Hardtanh,
        nn.Identity,
        nn.LeakyReLU,
        nn.LogSigmoid,
        nn.Mish,
        nn.ReLU,
        nn.ReLU6,
        nn.SELU,
        nn.SiLU,
        nn.Sigmoid,
        nn.Softplus,
        nn.Softsign,
        nn.Tanh,
        nn.Tanhshrink,
    }
)


@dataclass(frozen=True)
class Chain:
    """A target as a chain of steps.

    Attributes:
        steps: Run one after the other; each maps weights and `(B, *n, I)` to `(B, *n, O)`, or for
            one condition `(*n, I)` to `(*n, O)`.
    """

    steps: tuple[Step, ...]

    def run(self, weights: Weights, x: Tensor) -> Tensor:
        """Run the chain on `(B, *n, I)`."""
        for step in self.steps:
            x = step(weights, x)
        return x


def lower(module: nn.Module, names: Names) -> Chain | None:
    """Return the module as a chain, or `None` if it is anything else.

    Args:
        module: The target's skeleton.
        names: Module (by `id`) and parameter -> name of the tensor (ties).
    """
    steps = _steps(module, names)
    return None if steps is None else Chain(tuple(steps))


def _steps(module: nn.Module, names: Names) -> list[Step] | None:
    if _has_hooks(module) or "forward" in vars(module):  # a forward put on the instance
        return None
    if type(module) is nn.Sequential:
        made: list[Step] = []
        # Not named_children(): that leaves out a module's second appearance.
        for part in module:
            steps = _steps(part, names)
            if steps is None:
                return None
            made += steps
        return made
    if type(module) in _ELEMENTWISE and not getattr(module, "inplace", False):
        return [ElementwiseStep(module.forward)]
    own = names.get(id(module), {})
    if type(module) is nn.Linear:
        return [LinearStep(own["weight"], own.get("bias"))]
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        return [LayerNormStep(module, own.get("weight"), own.get("bias"))]
    return None


def _has_hooks(module: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in hooks)


@dataclass(frozen=True)
class ElementwiseStep:
    """A module that treats every number alike.

    Attributes:
        forward: What it does. It has no hooks, and the call around it costs more than it does.
    """

    forward: Callable[[Tensor], Tensor]

    def __call__(self, weights: Weights, x: Tensor) -> Tensor:
        return self.forward(x)


@dataclass(frozen=True)
class LinearStep:
    """A linear layer; the names of its weight and bias."""

    weight: str
    bias: str | None

    def __call__(self, weights: Weights, x: Tensor) -> Tensor:
        w = weights[self.weight]
        b = None if self.bias is None else _value(weights[self.bias])
        if isinstance(w, Tensor) and b is not None and b.ndim == w.ndim - 1:
            return F.linear(x, w, b) if w.ndim == 2 else linear_each(x, w, 1, b)
        if isinstance(w, Tensor):
            y = F.linear(x, w) if w.ndim == 2 else linear_each(x, w, 1)
        else:
            y = w.linear(x)
        return y if b is None else y + beside(b, y)


@dataclass(frozen=True)
class LayerNormStep:
    """A layer norm over the last axis; the names of its scale and shift."""

    module: nn.LayerNorm
    weight: str | None
    bias: str | None

    def __call__(self, weights: Weights, x: Tensor) -> Tensor:
        w, b = (None if n is None else _value(weights[n]) for n in (self.weight, self.bias))
        shape, eps = self.module.normalized_shape, self.module.eps
        if all(vector is None or vector.ndim == 1 for vector in (w, b)):
            return F.layer_norm(x, shape, w, b, eps)
        y = F.layer_norm(x, shape, eps=eps)
        y = y if w is None else y * beside(w, y)
        return y if b is None else y + beside(b, y)


def _value(weight: Weight | Tensor) -> Tensor:
    return weight if isinstance(weight, Tensor) else weight.dense()


def beside(vector: Tensor, y: Tensor) -> Tensor:
    """Bring `(O,)` or `(B, O)` to where it meets `(B, *n, O)`, in its dtype."""
    if vector.ndim == 1:
        return vector.to(y.dtype)
    return vector.to(y.dtype).reshape(vector.shape[0], *(1,) * (y.ndim - 2), vector.shape[1])
