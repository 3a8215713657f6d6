"""Inputs and generators of random numbers, for a call that may be done a second time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hyperloom.torch._target.tensors import equal
from hyperloom.torch._target.trace import version_of


class Draws:
    """PyTorch's generators of random numbers, as they are now.

    Args:
        cpu: The state of that for the CPU, if it was read before.
    """

    def __init__(self, cpu: Tensor | None = None) -> None:
        self.cpu = torch.get_rng_state() if cpu is None else cpu
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore(self) -> None:
        """Put them back."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)


class Copies:
    """Inputs for a run that may be done again: tensors, lists and dicts are copies.

    Args:
        inputs: Tuples, lists and dicts of anything.

    Attributes:
        inputs: The copies.
    """

    def __init__(self, inputs: Any) -> None:
        self.tensors: list[tuple[Tensor, Tensor, int]] = []
        self.containers: list[tuple[Any, Any]] = []
        self.originals: dict[int, Any] = {}
        self.inputs = self._copy(inputs)

    def _copy(self, item: Any) -> Any:
        copied = item
        if isinstance(item, Tensor) and type(item) in (Tensor, nn.Parameter):
            copied = item.clone()
            vars(copied).update(vars(item))  # what is noted on it
            self.tensors.append((item, copied, version_of(copied)))
        elif type(item) in (list, dict):
            values = item.values() if type(item) is dict else item
            parts = [self._copy(part) for part in values]
            copied = dict(zip(item, parts, strict=True)) if type(item) is dict else parts
            self.containers.append((item, copied))
        elif isinstance(item, tuple) and type(item) is not torch.Size:
            parts = [self._copy(part) for part in item]
            if any(new is not old for new, old in zip(parts, item, strict=True)):
                copied = item._make(parts) if hasattr(item, "_make") else tuple(parts)  # type: ignore[attr-defined]
        if copied is not item:
            self.originals[id(copied)] = item
        return copied

    def written(self) -> bool:
        """Whether anything was done to the copies."""
        changed = any(_written(*entry) for entry in self.tensors)
        return changed or any(self._filled(*pair) for pair in self.containers)

    def give_back(self) -> None:
        """Do to the originals what was done to the copies."""
        for original, copied, version in self.tensors:
            if _written(original, copied, version):
                original.copy_(copied)
        for original, copied in self.containers:
            if not self._filled(original, copied):
                continue
            if isinstance(copied, dict):
                items = {key: self._back(value) for key, value in copied.items()}
                original.clear()
                original.update(items)
            else:
                original[:] = map(self._back, copied)

    def _filled(self, original: Any, copied: Any) -> bool:
        if isinstance(copied, dict) and list(copied) != list(original):
            return True
        ours = list(copied.values()) if isinstance(copied, dict) else copied
        theirs = list(original.values()) if isinstance(copied, dict) else original
        pairs = zip(ours, theirs, strict=False)
        return len(ours) != len(theirs) or any(self._back(a) is not b for a, b in pairs)

    def _back(self, item: Any) -> Any:
        return self.originals.get(id(item), item)


def _written(original: Tensor, copied: Tensor, version: int) -> bool:
    if copied.is_inference():
        return not equal(original, copied)
    return copied._version != version
