"""Inputs with a part for each condition, of any number of rows: lists and nested tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from hyperloom._core.backend.inputs import Inputs, entries_of
from hyperloom._core.errors import message
from hyperloom.torch._weights.rows import Rows


class Ragged:
    """Inputs whose parts were joined as rows, and the way back.

    Args:
        inputs: Positional inputs, joined.
        kwargs: Keyword inputs, joined.
        in_dims: Which of them have rows.
        counts: Rows of each condition.
        nested: Whether outputs are to be nested tensors, as the first such input is; else lists.
        jagged: Whether these have the layout `torch.jagged`.
    """

    def __init__(
        self,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        in_dims: dict[int | str, Any],
        counts: tuple[int, ...],
        nested: bool,
        jagged: bool,
    ) -> None:
        self.inputs, self.kwargs, self.in_dims = inputs, kwargs, in_dims
        self.counts, self.nested, self.jagged = counts, nested, jagged

    @property
    def rows(self) -> Rows:
        """Which row has which condition."""
        return Rows(len(self.counts), self.counts)

    def back(self, output: Any, has_rows: Sequence[bool] | None = None) -> Any:
        """Return an output of all rows in parts, each tensor in the kind of the inputs.

        Args:
            output: What the target has returned for all rows.
            has_rows: Of each tensor in it, whether it has rows; `None` for all.
        """
        leaves, tree = tree_flatten(output)
        flags, size = iter(has_rows or [True] * len(leaves)), sum(self.counts)

        def parts(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if not next(flags, False):
                return self._joined([leaf] * len(self.counts))
            times = len(leaf) // size if size else 1
            return self._joined(list(leaf.split([times * count for count in self.counts])))

        return tree_unflatten([parts(leaf) for leaf in leaves], tree)

    def of_each(self, outputs: Sequence[Any]) -> Any:
        """Return what each condition has returned by itself.

        Raises:
            ValueError: Outputs of different structures.
        """
        flat, trees = zip(*(tree_flatten(output) for output in outputs), strict=True)
        if any(tree != trees[0] for tree in trees):
            got, way_out = "different structures", "Call the conditions one by one."
            raise ValueError(message("the target's output", got, "one", way_out))
        leaves = [
            self._joined(list(values)) if isinstance(values[0], Tensor) else values[0]
            for values in zip(*flat, strict=True)
        ]
        return tree_unflatten(leaves, trees[0])

    def _joined(self, parts: list[Tensor]) -> Any:
        if not self.nested:
            return parts
        if not self.jagged:
            return torch.nested.as_nested_tensor(parts)
        lengths = torch.tensor([0, *map(len, parts)], device=parts[0].device)
        return torch.nested.nested_tensor_from_jagged(torch.cat(parts), lengths.cumsum(0))


def ragged(
    num: int, inputs: tuple[Any, ...], kwargs: dict[str, Any], in_dims: Any
) -> Ragged | None:
    """Return inputs with a part for each of `num` conditions joined as rows; `None` for others.

    A nested tensor has parts. A list has, if it holds a tensor for each condition and some of
    them have another number of rows than there are conditions: it could not be paired otherwise.

    Raises:
        ValueError: Parts that do not fit the conditions, each other, or the other inputs.
    """
    if any(isinstance(value, Inputs) for value in inputs):
        return None
    places, of_names = entries_of("in_dims", inputs, kwargs, in_dims)
    dims = {**dict(enumerate(places)), **of_names}
    named = {**dict(enumerate(inputs)), **kwargs}
    parts = {key: found for key, v in named.items() if (found := _parts(v, num, dims[key]))}
    if not parts:
        return None
    others = [v for key, v in named.items() if key not in parts and dims[key] is not None]
    in_trees = any(
        isinstance(leaf, Tensor)
        for value in others
        if not isinstance(value, Tensor)
        for leaf in tree_leaves(value)
    )
    if in_trees and not any(isinstance(named[key], Tensor) for key in parts):
        return None  # beside trees of tensors that pair, a list is such a tree, and a wrong one
    first = next(iter(parts))
    counts = tuple(map(len, parts[first]))
    for key, value in named.items():
        if key in parts:
            _check(_called(key), parts[key], num, counts, _called(first), dims[key])
        elif isinstance(value, Tensor) and dims[key] is not None:
            got = f"shape {tuple(value.shape)} beside parts of {counts} rows in {_called(first)}"
            way_out = f"If all conditions share it, pass in_dims={{{key!r}: None}}."
            raise ValueError(message(_called(key), got, "a list with a part for each", way_out))
    joined = {key: torch.cat(parts[key]) if key in parts else value for key, value in named.items()}
    nested = [value for value in named.values() if isinstance(value, Tensor) and value.is_nested]
    return Ragged(
        tuple(joined[i] for i in range(len(inputs))),
        {name: joined[name] for name in kwargs},
        {key: 0 if key in parts else None for key in named},
        counts,
        bool(nested),
        bool(nested) and nested[0].layout == torch.jagged,
    )


def _parts(value: Any, num: int, dim: Any) -> list[Tensor] | None:
    """Return the parts of a nested tensor, or of a list that has some; not if all share it."""
    if isinstance(value, Tensor):
        return list(value.unbind()) if value.is_nested and dim is not None else None
    if type(value) is not list or len(value) != num or type(dim) is not int:
        return None
    if not all(isinstance(part, Tensor) and part.ndim and not part.is_nested for part in value):
        return None
    return value if any(len(part) != num for part in value) else None


def _check(
    name: str, parts: list[Tensor], num: int, counts: tuple[int, ...], first: str, dim: Any
) -> None:
    if len(parts) != num:
        got, wanted = f"{len(parts)} parts beside {num} conditions", "a part for each condition"
        raise ValueError(message(name, got, wanted))
    if dim != 0:
        wanted = "0 for an input in parts, or left out: each condition has its own"
        raise ValueError(message("in_dims", f"{dim!r} for {name}", wanted))
    kinds = {(tuple(part.shape[1:]), part.dtype, part.device) for part in parts}
    if len(kinds) > 1:
        got = "parts of " + " and ".join(sorted({f"{d} (n, {str(s)[1:]}" for s, d, _ in kinds}))
        raise ValueError(message(name, got, "parts that differ in their first axis only"))
    if tuple(map(len, parts)) != counts:
        got, wanted = f"parts of {tuple(map(len, parts))} rows", f"{counts}, as {first} has"
        raise ValueError(message(name, got, wanted))


def _called(key: int | str) -> str:
    return f"input {key}" if isinstance(key, int) else key
