"""Calls whose rows belong to different conditions: checked, laid out, run, and put back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from hyperloom._core.errors import message, shown
from hyperloom.torch._rules.rows.following import mark
from hyperloom.torch._run.joined import CONSTANT
from hyperloom.torch._run.pairing import all_dims
from hyperloom.torch._target.objects import ARRAYS
from hyperloom.torch._weights.rows import Rows

_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class RowCall:
    """The inputs of one run on rows.

    Attributes:
        rows: The condition of each row.
        args: Positional inputs.
        kwargs: Keyword inputs.
        paired: The tensors in them that have rows, by `id`.
    """

    rows: Rows
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    paired: frozenset[int]

    def copied(self, take: Callable[[Tensor], Tensor] | None = None) -> tuple[Any, Any]:
        """Return copies of the inputs, with rows marked; with `take`, what it returns for them.

        In objects such as caches, what has as many rows has those of the call.
        """
        seen = {id(leaf) for leaf in tree_leaves((self.args, self.kwargs))}
        hidden = with_rows(self.rows, tuple(tensors_in(self.args, self.kwargs)), {}) - seen

        def other(tensor: Tensor) -> Tensor:
            has_rows = id(tensor) in self.paired or id(tensor) in hidden
            with torch.no_grad():
                copied = tensor.detach().clone()
                if take is not None and has_rows:
                    copied = take(copied)
            if has_rows:
                mark(copied)
            return copied if take is not None else copied.requires_grad_(tensor.requires_grad)

        with _Copying(other):
            return copy.deepcopy((self.args, self.kwargs))


class _Copying(TorchFunctionMode):
    """Lets `copy.deepcopy` copy tensors in a way of our own, wherever it finds them."""

    def __init__(self, other: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.other = other

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = self.other(tensor)
        return memo[id(tensor)]


def tensors_in(*trees: Any) -> list[Tensor]:
    """Return the tensors in trees and in objects that are no trees, such as caches."""
    tensors: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    with _Copying(note):
        copy.deepcopy(trees)
    return tensors


def objects_in(tree: Any) -> list[Any]:
    """Return what a tree holds beside tensors and constants, such as caches."""
    return [leaf for leaf in tree_leaves(tree) if not isinstance(leaf, (Tensor, *CONSTANT))]


def cut(value: Any, flags: Sequence[bool], num: int, single: bool) -> list[Any]:
    """Return an object for each condition of a batch, with views of its rows.

    Args:
        value: The object, with the rows of all conditions in order, equally many for each.
        flags: Of each tensor in it, in the order of `tensors_in`, whether it has rows.
        num: Conditions.
        single: Whether a condition alone has no axis for rows.
    """

    def of_one(number: int) -> Any:
        has_rows = iter(flags)

        def part(tensor: Tensor) -> Tensor:
            if not next(has_rows):
                return tensor.clone()
            rows = tensor.unflatten(0, (num, -1))[number]
            return rows[0] if single else rows

        with _Copying(part):
            return copy.deepcopy(value)

    return [of_one(number) for number in range(num)]


def rows_of(rows: Rows, number: int, tensor: Tensor) -> Tensor:
    """Return the rows that belong to one condition."""
    conditions = rows.fit(len(tensor)).condition_of_row(tensor.device)
    return tensor[conditions == number]


def checked_rows(rows: Any, batch: torch.Size, device: torch.device) -> Rows:
    """Return which row has which condition.

    Args:
        rows: As a user gives it: `(R,)` ints into the batch of conditions.
        batch: The batch of conditions.
        device: Where the weights are.

    Raises:
        TypeError: No ints.
        ValueError: Not one axis, no rows, or conditions that are no batch of one axis.
        IndexError: A number that is no condition's.
    """
    wanted = "a tensor of ints (R,): for each row the place of its condition in the batch"
    if isinstance(rows, (list, tuple)):
        if not all(isinstance(row, int) and not isinstance(row, bool) for row in rows):
            raise TypeError(message("rows", f"the {type(rows).__name__} {rows!r}", wanted))
        rows = torch.tensor(rows, dtype=torch.int64)
    if not isinstance(rows, Tensor):
        raise TypeError(message("rows", rows, wanted))
    if rows.dtype not in _DTYPES:
        raise TypeError(message("rows", f"a {rows.dtype} tensor", wanted))
    if len(batch) != 1:
        got = f"conditions {tuple(batch)}" if batch else "one condition"
        way_out = "" if batch else "All rows are its own: leave rows= out."
        raise ValueError(
            message("rows", f"rows= beside {got}", "a batch of conditions (B,)", way_out)
        )
    if rows.ndim != 1:
        raise ValueError(message("rows", f"shape {tuple(rows.shape)}", wanted))
    if not len(rows):
        raise ValueError(message("rows", "none", "one row or more"))
    low, high = (int(value) for value in torch.aminmax(rows))
    if low < 0 or high >= batch[0]:
        bad = low if low < 0 else high
        raise IndexError(message("rows", f"the number {bad}", f"numbers 0 to {batch[0] - 1}"))
    return Rows.of(batch[0], rows.to(device, torch.int64))


def paired(
    rows: Rows, inputs: tuple[Any, ...], kwargs: dict[str, Any], in_dims: Any
) -> frozenset[int]:
    """Return the tensors (`id`) that have rows in front; those that `in_dims` says have none.

    Raises:
        TypeError: A NumPy array.
        ValueError: A tensor whose first axis is no multiple of the rows.
    """
    dims, kwargs_dims = all_dims(inputs, kwargs, in_dims)
    names = [*(f"input {i}" for i in range(len(inputs))), *kwargs]
    paired: set[int] = set()
    values = zip(names, (*inputs, *kwargs.values()), (*dims, *kwargs_dims.values()), strict=True)
    for name, value, dim in values:
        for tensor, dim_of_leaf in zip(tree_leaves(value), _leaves(dim, value), strict=True):
            if dim_of_leaf is None or not isinstance(tensor, ARRAYS):
                continue
            if not isinstance(tensor, Tensor):
                way_out = "Convert it: torch.as_tensor(...)."
                raise TypeError(message(name, shown(tensor), "tensors, with rows=", way_out))
            if dim_of_leaf != 0:
                wanted = "0 or None with rows=: rows are the first axis"
                raise ValueError(message("in_dims", dim_of_leaf, wanted))
            if not tensor.ndim or not len(tensor) or len(tensor) % rows.size:
                got = f"shape {tuple(tensor.shape)} beside rows= of {rows.size}"
                wanted = f"{rows.size} rows in front, or a multiple: each row k times in place"
                way_out = "For an input that all rows share, pass in_dims=None."
                raise ValueError(message(name, got, wanted, way_out))
            paired.add(id(tensor))
    return frozenset(paired)


def _leaves(dims: Any, value: Any) -> list[Any]:
    """Return the dimension of each leaf of an input."""
    if isinstance(value, (tuple, list, dict)):
        return tree_leaves(dims)
    return [dims] * len(tree_leaves(value))


def with_rows(rows: Rows, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> frozenset[int]:
    """Return the tensors (`id`) of any call that have as many rows, or a multiple."""
    return frozenset(
        id(leaf)
        for leaf in tree_leaves((inputs, kwargs))
        if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) and len(leaf) % rows.size == 0
    )


def brought_together(call: RowCall) -> RowCall:
    """Return the call with the rows of each condition one after the other."""
    rows = call.rows
    if rows.index is None:
        return call
    paired: set[int] = set()
    kept: list[Tensor] = []

    def together(leaf: Any) -> Any:
        if id(leaf) not in call.paired:
            return leaf
        rearranged = rows.fit(len(leaf)).together(leaf)
        paired.add(id(rearranged))
        kept.append(rearranged)
        return rearranged

    args, kwargs = tree_map(together, (call.args, call.kwargs))
    return RowCall(Rows(rows.num, rows.counts), args, kwargs, frozenset(paired))


def put_back(output: Any, rows: Rows, flags: Sequence[bool]) -> Any:
    """Put the rows of an output to the places that they have in the call."""
    leaves, tree = tree_flatten(output)
    has_rows = iter(flags)
    in_place = [
        rows.fit(len(leaf)).apart(leaf)
        if isinstance(leaf, Tensor) and next(has_rows, False)
        else leaf
        for leaf in leaves
    ]
    return tree_unflatten(in_place, tree)


# ---- one condition after the other --------------------------------------------------------------


def part_of(call: RowCall, number: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the inputs of one condition: its rows."""

    def rows_of_one(leaf: Any) -> Any:
        return rows_of(call.rows, number, leaf) if id(leaf) in call.paired else leaf

    return tree_map(rows_of_one, (call.args, call.kwargs))


def assembled(outputs: Sequence[Any], rows: Rows) -> Any:
    """Return what the conditions have returned, each for its rows, with the rows in place.

    Raises:
        ValueError: Something else than tensors with rows in front, or of different shapes.
    """
    flat, specs = zip(*(tree_flatten(output) for output in outputs), strict=True)
    if any(spec != specs[0] for spec in specs):
        raise ValueError(message("the target's output", "different structures", "one", _BY_ONE))
    counts = [rows.counts[i] for i in rows.present()]
    whole = [_assembled(leaves, counts, rows) for leaves in zip(*flat, strict=True)]
    return tree_unflatten(whole, specs[0])


def _assembled(leaves: Sequence[Any], counts: Sequence[int], rows: Rows) -> Any:
    first = leaves[0]
    if not isinstance(first, Tensor):
        same = all(type(leaf) is type(first) and leaf == first for leaf in leaves)
        if same:
            return first
        raise ValueError(message("the target's output", repr(first), "tensors with rows", _BY_ONE))
    times = {len(v) / n if v.ndim else 0 for v, n in zip(leaves, counts, strict=True)}
    rest = {tuple(leaf.shape[1:]) for leaf in leaves}
    if len(times) > 1 or len(rest) > 1 or times.pop() % 1 or not first.ndim:
        if all(leaf.shape == first.shape and torch.equal(leaf, first) for leaf in leaves):
            return first  # one for all rows
        shapes = " and ".join(sorted({str(tuple(leaf.shape)) for leaf in leaves}))
        raise ValueError(
            message("the target's output", f"shapes {shapes}", "tensors with rows in front", _LOSS)
        )
    whole = torch.cat(list(leaves))
    return rows.fit(len(whole)).apart(whole)


_BY_ONE = "Call the conditions one by one."
_LOSS = "A loss over rows is to be computed from what the target returns."
