"""Tensors under dotted names, as a tree of modules: so that state dicts read like the target's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


class TensorTree(nn.Module):
    """Holds parameters and buffers under names with dots, e.g. `"layers.0.weight"`."""

    def add_parameter(self, name: str, value: torch.Tensor) -> None:
        """Hold `value` as a learned parameter."""
        node, leaf = self._node(name)
        node.register_parameter(leaf, nn.Parameter(value))

    def add_buffer(self, name: str, value: torch.Tensor, persistent: bool = True) -> None:
        """Hold `value` as a buffer; one that is not `persistent` stays out of the state dict."""
        node, leaf = self._node(name)
        node.register_buffer(leaf, value, persistent=persistent)

    def remove(self, name: str) -> None:
        """Hold the buffer `name` no longer."""
        node, leaf = self._node(name)
        del node._buffers[leaf]

    def is_persistent(self, name: str) -> bool:
        """Whether the buffer `name` is in the state dict."""
        node, leaf = self._node(name)
        return leaf not in node._non_persistent_buffers_set

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
        """Yield all names and tensors."""
        for held in (self._parameters, self._buffers):
            for key, value in held.items():
                if value is not None:
                    yield prefix + key, value
        for key, node in self._modules.items():
            if isinstance(node, TensorTree):
                yield from node.tensors(f"{prefix}{key}.")

    def _node(self, name: str) -> tuple[nn.Module, str]:
        *path, leaf = name.split(".")
        node: nn.Module = self
        for step in path:
            if step not in node._modules:
                node.add_module(step, TensorTree())
            node = node._modules[step]  # type: ignore[assignment]
        return node, leaf
