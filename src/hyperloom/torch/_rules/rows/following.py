"""Following the rows through a run, and drawing the same random numbers for every row.

Both are for the one run in which a target is examined: which functions meet rows, and whether the
rows of a batch come out as they do when one condition is run alone on its rows.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from hyperloom.torch._rules.rows.standin import MARK, Meeting, RowWise, name_of
from hyperloom.torch._weights.rows import NotRowsError


def mark(tensor: Any) -> None:
    """Say of a tensor that its first axis is the rows of the call."""
    if isinstance(tensor, Tensor) and not isinstance(tensor, RowWise):
        setattr(tensor, MARK, True)


class _Follow(TorchFunctionMode):
    """Marks what is computed from marked tensors.

    Args:
        rows: How many rows there are.

    Raises:
        NotRowsError: Numbers are drawn for all rows together, or from a generator of the target's;
            or Python reads a number that all rows have a part in, and may branch on it. Of masks
            and token ids, which are no floating numbers, such questions are shortcuts.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        marked = any(hasattr(leaf, MARK) for leaf in tree_leaves((args, kwargs)))
        if kwargs.get("generator") is not None:
            raise NotRowsError("it draws random numbers from a generator of its own")
        if func in _READS and args[0].is_floating_point() and marked:
            raise NotRowsError(f"it reads a number of all rows together ({_READS[func]})")
        output = func(*args, **kwargs)
        if func in _DRAWS and not marked and output.shape[:1] != (self.rows,):
            raise NotRowsError("it draws random numbers once for all rows")
        if marked:
            for leaf in tree_leaves(output):
                mark(leaf)
            if args and (func is Tensor.__setitem__ or name_of(func).endswith("_")):
                mark(args[0])
        return output


@contextmanager
def following(meeting: Meeting) -> Generator[None]:
    """Follow the rows from marked inputs on; uses are noted in `meeting.uses`."""
    meeting.follows = True
    try:
        with _Follow(meeting.rows.size):
            yield
    finally:
        meeting.follows = False


class SameDraws(TorchFunctionMode):
    """Makes random draws that do not depend on how many rows there are.

    Every row gets the same numbers, from a generator that starts anew; so a run of all rows and
    one of some of them draw alike. Random numbers outside are not used up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seed = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func in (torch.multinomial, Tensor.multinomial):
            return _likeliest(*args, **kwargs)
        if func not in _DRAWS:
            return func(*args, **kwargs)
        self.seed += 1
        given = {k: v for k, v in kwargs.items() if k != "generator"}
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.seed)
            drawn = func(*args, **given)
            if drawn.ndim == 0 or not len(drawn):
                return drawn
            torch.manual_seed(self.seed)
            first = torch.rand(drawn.shape[1:], device="cpu").to(drawn.device)
        return _as_drawn(name_of(func), drawn, first)


def _likeliest(
    input: Tensor,  # noqa: A002
    num_samples: int,
    replacement: bool = False,
    **_: Any,
) -> Tensor:
    return input.topk(min(num_samples, input.shape[-1]), -1).indices


def _as_drawn(name: str, drawn: Tensor, first: Tensor) -> Tensor:
    """Fill a drawn tensor with one row's numbers, of about the distribution asked for."""
    if drawn.is_floating_point():
        normal = "randn" in name or "normal" in name
        row = (first * 2 - 1) * 1.7 if normal else first
    else:
        row = first * (drawn.max() - drawn.min() + 1) + drawn.min()
    if name.startswith("bernoulli"):
        row = (first > 0.5).to(drawn.dtype)
    return drawn.copy_(row.to(drawn.dtype).expand_as(drawn))


def _found(owners: tuple[Any, ...], names: str) -> set[Any]:
    """Return the functions of these names that there are."""
    candidates = {getattr(owner, name, None) for owner in owners for name in names.split()}
    return {function for function in candidates if function is not None}


_READS: dict[Any, str] = {
    Tensor.item: ".item()",
    Tensor.tolist: ".tolist()",
    Tensor.__bool__: "bool()",
    Tensor.__float__: "float()",
    Tensor.__int__: "int()",
}
_DROPOUTS = _found(
    (F, torch),
    """
    dropout dropout_ dropout1d dropout2d dropout3d alpha_dropout feature_dropout
    feature_alpha_dropout
    """,
)
_DRAWS = _found(
    (torch, Tensor),
    """
    rand randn randint rand_like randn_like randint_like bernoulli normal poisson bernoulli_ normal_
    uniform_ random_ exponential_ cauchy_ log_normal_ geometric_
    """,
)
