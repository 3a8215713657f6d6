"""Tensors under dotted names, as a tree of modules: so that state dicts read like the target's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from hyperloom._core.checkpoint.base import fingerprint_of, sample_step
from hyperloom.torch._target.packed import Packed, plain_tensors


class TensorTree(nn.Module):
    """Holds tensors under names with dots, e.g. `"layers.0.weight"`.

    Parameters and buffers as any module; and references: tensors that stay where they are, in the
    memory of somebody else's module. References are no part of the state dict, no optimiser and no
    wrapper for several processes sees them, and copies of the tree share them. They follow
    `.to()`: what that converts is a tensor of the tree's, and the other module's is as it was.
    """

    references: dict[str, torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.references = {}

    def add_parameter(self, name: str, value: torch.Tensor) -> None:
        """Hold `value` as a learned parameter."""
        node, leaf = self._node(name)
        node.register_parameter(leaf, nn.Parameter(value))

    def add_buffer(self, name: str, value: torch.Tensor, persistent: bool = True) -> None:
        """Hold `value` as a buffer; one that is not `persistent` stays out of the state dict."""
        node, leaf = self._node(name)
        node.register_buffer(leaf, value, persistent=persistent)

    def add_reference(self, name: str, value: torch.Tensor) -> None:
        """Hold `value` where it is."""
        node, leaf = self._node(name)
        node.references[leaf] = value

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
        for held in (self._parameters, self._buffers, self.references):
            for key, value in held.items():
                if value is not None:
                    yield prefix + key, value
        for key, node in self._modules.items():
            if isinstance(node, TensorTree):
                yield from node.tensors(f"{prefix}{key}.")

    def referred(self, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
        """Yield names and tensors of the references."""
        for key, value in self.references.items():
            yield prefix + key, value
        for key, node in self._modules.items():
            if isinstance(node, TensorTree):
                yield from node.referred(f"{prefix}{key}.")

    def _node(self, name: str) -> tuple[TensorTree, str]:
        *path, leaf = name.split(".")
        node: Any = self
        for step in path:
            if step not in node._modules:
                node.add_module(step, TensorTree())
            node = node._modules[step]
        return node, leaf

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.references = {key: _followed(value, fn) for key, value in self.references.items()}
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TensorTree:
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        memo.update((id(value), value) for value in self.references.values())
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other


def _followed(value: torch.Tensor, fn: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Bring a reference to where `fn` brings tensors, with its values.

    `fn` may drop them (`to_empty`, `.to("meta")`): for what is learned a state dict brings them
    back, for a reference nothing would.
    """
    if isinstance(value, Packed):
        return value.followed(fn)
    probe = fn(torch.ones(1, dtype=value.dtype, device=value.device))
    return value if probe.is_meta else value.to(device=probe.device, dtype=probe.dtype)


def frozen(*trees: TensorTree) -> dict[str, torch.Tensor]:
    """Return what several trees refer to, by name."""
    return {name: value for tree in trees for name, value in tree.referred()}


def fingerprint(*trees: TensorTree) -> torch.Tensor | None:
    """Return the fingerprint of what the trees refer to, `(32,)` uint8; `None` for nothing."""
    values = frozen(*trees)
    if not values:
        return None
    parts = ((n, str(v.dtype), tuple(v.shape), _some_bytes(v)) for n, v in values.items())
    return torch.tensor(list(fingerprint_of(parts)), dtype=torch.uint8)


def _some_bytes(value: torch.Tensor) -> bytes:
    return b"".join(map(_sampled, plain_tensors(value)))


def _sampled(value: torch.Tensor) -> bytes:
    value = value.detach().as_subclass(torch.Tensor)
    some = value.reshape(-1)[:: sample_step(value.numel())]
    return some.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def parts_of_sparse(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the dense tensors that a sparse one is made of."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return tensor.ccol_indices(), tensor.row_indices(), tensor.values()


def sparse_of(parts: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Return the sparse tensor that is made of some parts, stored as `like` is."""
    first, *rest = parts
    if like.layout is torch.sparse_coo:
        coalesced = like.is_coalesced()
        return torch.sparse_coo_tensor(first, rest[0], like.shape, is_coalesced=coalesced)
    second, values = rest
    return torch.sparse_compressed_tensor(first, second, values, like.shape, layout=like.layout)


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same numbers; sparse ones, whether they are stored alike."""
    if one.layout is torch.strided is other.layout:
        return torch.equal(one, other)
    same = one.layout is other.layout and one.shape == other.shape
    return same and all(map(torch.equal, parts_of_sparse(one), parts_of_sparse(other)))
