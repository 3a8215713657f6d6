"""A tensor that stands for the generated weights of all conditions, inside a target run on rows.

The target runs once, on real tensors with rows in front. A function that meets a stand-in and rows
is taken by its rule: each row meets the weight of its condition. A function that meets stand-ins
and nothing that has rows is done for each condition, and gives another stand-in. Nothing is
computed with the stand-in's storage: it has none.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from hyperloom.torch._rules.mode import Lowering
from hyperloom.torch._rules.registry import ROWS
from hyperloom.torch._target.functions import refuse_in_function
from hyperloom.torch._target.placeholder import PlaceholderError, empty_like
from hyperloom.torch._weights.rows import NotRowsError, Rows
from hyperloom.torch._weights.weights import Dense, Weight

# Takes the meeting, then what the function takes.

MARK = "_hyperloom_rows"


class Uses:
    """Which arguments had rows, at every use of a stand-in: found by a run that followed them.

    A tensor does not say whether its first axis is the rows of the call or just as long. A run
    that follows the rows from the inputs on finds that out; later runs use its answers.
    """

    def __init__(self) -> None:
        self.had_rows: dict[tuple[Any, str], tuple[bool, ...] | None] = {}

    @property
    def always_followed(self) -> bool:
        """Whether some use has had rows at one time and none at another."""
        return None in self.had_rows.values()

    def take(self, other: Uses) -> None:
        """Keep what other runs have found."""
        for key, rows in other.had_rows.items():
            self.note(key, rows)

    def note(self, key: tuple[Any, str], rows: tuple[bool, ...] | None) -> None:
        """Keep what a run that followed the rows has found."""
        if self.had_rows.setdefault(key, rows) != rows:
            self.had_rows[key] = None


class Meeting:
    """What the stand-ins of one run share.

    Args:
        rows: Which row has which condition.
        uses: Which arguments have rows.
        device: Where the weights are.
    """

    def __init__(self, rows: Rows, uses: Uses, device: torch.device) -> None:
        self.rows, self.uses, self.device = rows, uses, device
        self.follows = False  # whether rows are being followed in this run
        self.alone = False  # whether this is one row for each condition, without the target's rows
        self.grad = torch.is_grad_enabled()  # whether gradients are taken, or are to be later
        self.axis, self.width = 0, 0  # where functions have their rows just now, and how many
        self._apart: Meeting | None = None

    @property
    def apart(self) -> Meeting:
        """The meeting of what has no rows: each condition is a row."""
        if self._apart is None:
            self._apart = Meeting(Rows.blocks(self.rows.num, 1), self.uses, self.device)
            self._apart.alone = True
        return self._apart

    @contextmanager
    def rows_at(self, axis: int, width: int) -> Any:
        """Functions called inside have their rows, `width` many, at another axis."""
        before = self.axis, self.width
        self.axis, self.width = axis, width
        try:
            yield
        finally:
            self.axis, self.width = before

    def among(self, func: Any, label: str, tensors: list[Tensor]) -> tuple[bool, ...]:
        """Say which of a function's plain tensors have rows."""
        if self.axis:
            return tuple(tensor.ndim >= 2 for tensor in tensors)
        key = (func, label)
        if self.follows:
            rows = tuple(hasattr(tensor, MARK) for tensor in tensors)
            self.uses.note(key, rows)
            return rows
        known = self.uses.had_rows.get(key)
        if known is not None and len(known) == len(tensors):
            return known
        size = self.rows.size
        if any(tensor.ndim and len(tensor) % size == 0 for tensor in tensors):
            raise NotRowsError(f"{name_of(func)} of {label!r} was not met when rows were followed")
        return (False,) * len(tensors)

    def knows(self, func: Any, label: str) -> tuple[bool, ...] | None:
        """Return which plain tensors have rows, where rows are in front and a run has told."""
        if self.follows or self.axis or self.alone:
            return None
        return self.uses.had_rows.get((func, label))

    # ---- what rules ask for ---------------------------------------------------------------------

    def weight_of(self, weight: RowWise) -> Weight:
        """Return the weight behind a stand-in, indexed by the rows of this meeting."""
        generated = weight.weight
        return generated if generated.by is self.rows else replace(generated, by=self.rows)

    def input(self, x: Any) -> Tensor:
        """Return what a layer is applied to, with rows in front."""
        if not self.alone:
            if isinstance(x, RowWise):
                return self.beside(x, None, x.ndim)
            if not self.axis:
                return x
            return (x if x.ndim > 2 else x.unflatten(0, (-1, self.width))).movedim(self.axis, 0)
        return dense(x) if isinstance(x, RowWise) else x.expand(self.rows.num, *x.shape)

    def output(self, y: Tensor, x: Tensor) -> Tensor:
        """Put the rows of a layer's output where its input `x` has them."""
        if not self.axis or self.alone:
            return y
        y = y.movedim(0, self.axis).contiguous()  # a layer's output is
        return y.flatten(0, 1) if x.ndim == 2 else y

    def vector(self, value: Any, y: Tensor, after: int = 0) -> Tensor:
        """Return a layer's vector so that it meets `y`, `after` axes from the end, in its dtype."""
        if not isinstance(value, RowWise):
            return value.to(y.dtype).reshape(*value.shape, *(1,) * after)
        rows = self.rows.fit(len(y)).gather(dense(value)).to(y.dtype)
        missing = y.ndim - 1 - (rows.ndim - 1) - after
        return rows.reshape(len(rows), *(1,) * missing, *rows.shape[1:], *(1,) * after)

    def beside(self, value: RowWise, size: int | None, ndim: int) -> Tensor:
        """Return a stand-in as a tensor with rows, to meet one of `ndim` axes from the right.

        Raises:
            NotRowsError: It has axes where the rows are.
        """
        numbers, shape = dense(value), value.shape
        if len(shape) < ndim and size is not None:
            rows = self.rows.fit(size).gather(numbers)
            return rows.reshape(size, *(1,) * (ndim - 1 - len(shape)), *shape)
        if len(shape) == ndim and shape[0] == 1 and size is not None:
            return self.rows.fit(size).gather(numbers.squeeze(1))
        size = shape[0] if size is None and shape else size
        if len(shape) == ndim and shape[0] == size and size:  # something for each row already
            conditions = self.rows.fit(size).condition_of_row(numbers.device)
            return numbers[conditions, torch.arange(size, device=numbers.device)]
        got = f"{value.label!r} of shape {tuple(shape)}"
        raise NotRowsError(f"{got} beside {ndim} axes, the first for {size} rows")


class RowWise(Tensor):
    """Stands for a `Weight` of `B` conditions: shape and dtype of one, no numbers."""

    make: Callable[[], Weight]
    label: str
    kind: torch.dtype
    meeting: Meeting

    @staticmethod
    def of(
        make: Callable[[], Weight], shape: Any, dtype: torch.dtype, label: str, meeting: Meeting
    ) -> RowWise:
        """Return a stand-in for the weight that `make` gives when it is needed."""
        tensor = empty_like(RowWise, shape, dtype, meeting.device)
        tensor.make, tensor.label, tensor.kind, tensor.meeting = make, label, dtype, meeting
        return tensor

    @property
    def weight(self) -> Weight:
        """The weight, in the stand-in's dtype."""
        return self.make()

    def like(self, value: Tensor, func: Any) -> RowWise:
        """Return a stand-in for the tensor `(B, *shape)` that a function gives."""
        label, shape = f"{name_of(func)}({self.label})", value.shape[1:]
        weight = Dense(label, shape, len(value), value, by=self.meeting.rows)
        return RowWise.of(lambda: weight, shape, value.dtype, label, self.meeting)

    def turned(self) -> RowWise:
        """Return the transpose of a matrix, in the form that it has."""
        shape, label = tuple(reversed(self.shape)), f"t({self.label})"
        return RowWise.of(lambda: self.weight.turned(), shape, self.kind, label, self.meeting)

    def converted(self, dtype: torch.dtype) -> RowWise:
        """Return the weight in another dtype, in the form that it has."""
        if dtype == self.kind:
            return self
        make = lambda: self.weight.to(dtype)  # noqa: E731
        return RowWise.of(make, self.shape, dtype, self.label, self.meeting)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise PlaceholderError(
            f"code that PyTorch's overrides do not reach uses a generated tensor ({func.name()})"
        )

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            given = (*args, *kwargs.values())
            refuse_in_function(any(isinstance(a, RowWise) and a.meeting.grad for a in given))
        straight = STRAIGHT.get(func)
        if straight is not None and not kwargs:
            output = straight(*args)
            if output is not None:
                return output
        told = TOLD.get(func)
        known = NotImplemented if told is None else told(*args, **kwargs)
        if known is not NotImplemented:
            return known
        if func in SHAPE_ONLY:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        leaves, tree = tree_flatten((args, kwargs))
        first = next(leaf for leaf in leaves if isinstance(leaf, RowWise))
        meeting, rule = first.meeting, ROWS.get(func)
        places = [i for i, leaf in enumerate(leaves) if _is_plain(leaf)]
        rows = meeting.among(func, first.label, [leaves[i] for i in places])
        if True not in rows:
            if rule is None or func in MIXING:
                return for_each(func, first, leaves, tree)
            return first.like(rule(meeting.apart, *args, **kwargs), func)
        if rule is not None:
            return rule(meeting, *args, **kwargs)
        marked = [i for i, row in zip(places, rows, strict=True) if row]
        if "out" in kwargs or name_of(func).endswith("_"):
            raise NotRowsError(f"{name_of(func)} of {first.label!r} has no rule for rows")
        return in_segments(func, first, leaves, tree, marked)


def _is_plain(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, RowWise)


def dense(tensor: RowWise) -> Tensor:
    """Return the tensor of every condition, `(B, *shape)`."""
    weight = tensor.weight
    weight.note("other", "dense")
    return weight.whole()


def name_of(func: Any) -> str:
    """Return what a function is called, in labels and errors."""
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name


def for_each(func: Any, first: RowWise, leaves: list[Any], tree: Any) -> Any:
    """Call a function for every condition, on its generated tensors and on shared ones."""
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, RowWise)]
    function = _with(func, leaves, tree, places)

    def one(*values: Tensor) -> Any:
        with Lowering():  # where vmap by itself would take the conditions one by one
            outputs = function(*values)
        if not all(isinstance(leaf, Tensor) for leaf in tree_flatten(outputs)[0]):
            raise NotRowsError(f"{name_of(func)} of {first.label!r} gives no tensor")
        return outputs

    outputs = vmap(one, randomness="different")(*(dense(leaves[i]) for i in places))
    return tree_map_only(Tensor, lambda value: first.like(value, func), outputs)


def in_segments(
    func: Any, first: RowWise, leaves: list[Any], tree: Any, marked: list[int]
) -> Tensor:
    """Call a function for every condition on its rows; put the results where the rows are.

    Raises:
        NotRowsError: The arguments' first axes differ.
    """
    sizes = {leaves[i].shape[:1] for i in marked}
    if len(sizes) > 1 or torch.Size() in sizes:
        axes = ", ".join(str(tuple(size)) for size in sizes)
        raise NotRowsError(f"{name_of(func)} of {first.label!r} has first axes {axes}")
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, RowWise)]
    function = _with(func, leaves, tree, [*marked, *places])
    rows = first.meeting.rows.fit(sizes.pop()[0])
    inputs = tuple(leaves[i] for i in marked)
    return rows.segments(function, inputs, tuple(dense(leaves[i]) for i in places))


def _with(func: Any, leaves: list[Any], tree: Any, places: list[int]) -> Callable[..., Any]:
    """Return a function of the arguments at some places, the others being what they are."""

    def function(*values: Tensor) -> Any:
        arguments = list(leaves)
        for i, value in zip(places, values, strict=True):
            arguments[i] = value
        args, kwargs = tree_unflatten(arguments, tree)
        return func(*args, **kwargs)

    return function


# Functions that combine tensors: of generated tensors alone they run once for every condition.
MIXING: set[Any] = set()
TOLD: dict[Any, Callable[..., Any]] = {}
# What is met at every layer of every token goes past the general way where all is known of it:
# these return `None` where it is not.
STRAIGHT: dict[Any, Callable[..., Tensor | None]] = {}
SHAPE_ONLY: set[Any] = set()
