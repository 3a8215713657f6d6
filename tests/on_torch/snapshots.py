"""What a module is, bitwise: to show that a call, and above all a failed one, changed nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl


def _bits(tensor: Tensor) -> bytes:
    if tensor.is_meta:
        return b""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Return all that a user can see of a module: numbers as bytes, ties, modes, gradients.

    Of a hypernetwork also the plan and the modes of its target.
    """
    named: list[tuple[str, Tensor]] = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    seen: dict[str, Any] = {
        name: (id(t), t.dtype, t.device, tuple(t.shape), t.requires_grad, _bits(t))
        for name, t in named
        if not isinstance(t, nn.parameter.UninitializedParameter)
    }
    for name, tensor in named:
        seen[f"{name} grad"] = None if tensor.grad is None else _bits(tensor.grad)
    for path, part in module.named_modules(remove_duplicate=False):
        seen[f"{path} mode"] = (id(part), type(part), part.training)
        seen[f"{path} names"] = (tuple(part._parameters), tuple(part._buffers), tuple(vars(part)))
    if isinstance(module, hl.HyperNetwork):
        seen["plan"] = module.plan
        inner = module._runner.skeleton.module
        seen["target modes"] = [part.training for part in inner.modules()]
        seen["target tensors"] = [(id(t), t.dtype, t.device) for t in inner.parameters()]
    return seen


@contextmanager
def unchanged(*modules: nn.Module) -> Generator[None]:
    """Assert that the block changes none of the modules, whether it raises or not."""
    before = [snapshot(module) for module in modules]
    try:
        yield
    finally:
        for module, then in zip(modules, before, strict=True):
            now = snapshot(module)
            changed = [k for k in now.keys() | then.keys() if now.get(k) != then.get(k)]
            assert not changed, f"changed: {changed}"


def refused(
    call: Callable[[], Any], error: type[Exception], text: str, *modules: nn.Module
) -> None:
    """Assert that `call` raises exactly `error` with a text that begins with `text`, and that
    all `modules` are bitwise as they were.
    """
    with unchanged(*modules), pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error, f"a {type(caught.value).__name__}, not {error.__name__}"
    found = str(caught.value)
    assert found.startswith(text), f"\n{found}\ndoes not begin with\n{text}"
