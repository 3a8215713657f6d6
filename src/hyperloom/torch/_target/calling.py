"""Small things around a call of a module: outside of a graph, of another method, by paths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn

from hyperloom.torch._target.reads import Reads


def _eager(function: Any, *args: Any) -> Any:
    return function(*args)


@cache
def in_eager() -> Any:
    """Return `_eager` without compilation; built on first use, as this imports the compiler."""
    return torch.compiler.disable(_eager)


class Method(nn.Module):
    """A module whose forward is a method of another, whose reads may be noted."""

    def __init__(self, target: nn.Module, name: str, reads: Reads | None) -> None:
        super().__init__()
        self.target, self.name, self.reads = target, name, reads

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        called = self.target if self.name == "forward" else getattr(self.target, self.name)
        with self.reads or nullcontext():
            return called(*args, **kwargs)


def parameter_paths(module: nn.Module) -> Iterator[tuple[nn.Module, list[tuple[str, str]]]]:
    """Yield each module with the names of its parameters, its own and from the outermost."""
    for path, part in module.named_modules():
        keys = [key for key, value in part._parameters.items() if value is not None]
        if keys:
            yield part, [(key, f"{path}.{key}" if path else key) for key in keys]
