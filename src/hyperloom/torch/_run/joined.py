"""What several conditions return, as one: tensors are stacked, other things stand in a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten  # the trees of torch.func.vmap

from hyperloom._core.errors import message


class OfEach(list[Any]):
    """Values that differ, one of each condition. A class, so that it is a leaf of output trees."""


class OfEachLater(OfEach):
    """Values that are made when they are first looked at: most callers never look at a cache.

    Args:
        make: Returns the values.
    """

    def __init__(self, make: Callable[[], Sequence[Any]]) -> None:
        super().__init__()
        self._make: Callable[[], Sequence[Any]] | None = make

    def _filled(self) -> None:
        if self._make is not None:
            make, self._make = self._make, None
            list.extend(self, make())


def _once_filled(name: str) -> Callable[..., Any]:
    plain = getattr(list, name)

    def read(self: OfEachLater, *args: Any) -> Any:
        self._filled()
        return plain(self, *args)

    return read


_READS = "iter getitem len eq ne repr contains reversed add mul setitem delitem reduce_ex copy"
for _name in (*(f"__{name}__" for name in _READS.split()[:-1]), "copy", "index", "count", "append"):
    setattr(OfEachLater, _name, _once_filled(_name))


def join(outputs: Sequence[Any], batch: Sequence[int]) -> Any:
    """Return the outputs of the conditions as one: tensors are stacked along new dimensions.

    What is no tensor stays as it is where all conditions return the same; else it becomes a list
    with an entry for each condition, in lists for each dimension of the batch but the last.

    Raises:
        ValueError: Outputs of different structures or shapes.
    """
    flat, specs = zip(*(tree_flatten(output) for output in outputs), strict=True)
    if any(spec != specs[0] for spec in specs):
        other = next(i for i, spec in enumerate(specs) if spec != specs[0])
        got = f"{specs[0]} for the first condition and {specs[other]} for number {other}"
        raise ValueError(message("the target's output", got, "one structure", _ONE_BY_ONE))
    leaves = [_in_batch(_joined(values), batch) for values in zip(*flat, strict=True)]
    return tree_unflatten(leaves, specs[0])


def _in_batch(leaf: Any, batch: Sequence[int]) -> Any:
    """Give a leaf of all conditions the dimensions of the batch."""
    if len(batch) < 2:
        return leaf
    if isinstance(leaf, (Tensor, np.ndarray)):
        return leaf.reshape(*batch, *leaf.shape[1:])
    if isinstance(leaf, OfEach):
        size = len(leaf) // batch[0]
        rows = (OfEach(leaf[i : i + size]) for i in range(0, len(leaf), size))
        return OfEach(_in_batch(row, batch[1:]) for row in rows)
    return leaf


_ONE_BY_ONE = "Call the conditions one by one."


def concatenated(outputs: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Return the outputs of several parts of a batch, of these sizes, by the rules of `join`."""
    flat, specs = zip(*(tree_flatten(output) for output in outputs), strict=True)
    if any(spec != specs[0] for spec in specs):
        raise ValueError(message("the target's output", "parts", "one structure", _ONE_BY_ONE))
    leaves = []
    for of_parts in zip(*flat, strict=True):
        if isinstance(of_parts[0], Tensor):
            leaves.append(torch.cat(of_parts))
        elif all(isinstance(part, np.ndarray) for part in of_parts):
            leaves.append(np.concatenate(of_parts))
        else:
            parts = zip(of_parts, sizes, strict=True)
            lists = [part if isinstance(part, OfEach) else [part] * num for part, num in parts]
            leaves.append(_joined([value for part in lists for value in part]))
    return tree_unflatten(leaves, specs[0])


def _joined(leaves: Sequence[Any]) -> Any:
    first = leaves[0]
    if all(isinstance(leaf, Tensor) for leaf in leaves):
        shapes = {tuple(leaf.shape) for leaf in leaves}
        if len(shapes) > 1:
            got = " and ".join(map(str, sorted(shapes)))
            wanted = "outputs of one shape for all conditions"
            raise ValueError(message("the target's output", f"shapes {got}", wanted, _ONE_BY_ONE))
        return torch.stack(list(leaves))
    if all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return np.stack(leaves)
    if isinstance(first, CONSTANT) and all(type(leaf) is type(first) for leaf in leaves):
        same = all(leaf == first for leaf in leaves)
        return first if same else OfEach(leaves)
    return OfEach(leaves)


# Values that say the same for every condition if they are equal.
CONSTANT = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
