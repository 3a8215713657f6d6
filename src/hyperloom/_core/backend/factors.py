"""Low-rank changes as their factors: what `hnet.factors()` returns, and sums of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hyperloom._core.backend.walk import bank_of
from hyperloom._core.errors import a_mapping, finite_float, message, shown
from hyperloom._core.plan.plan import Plan
from hyperloom._core.target.spec import TensorSpec

ADAPTER = "factors by name, as hnet.factors(condition) returns them"


class Factors(NamedTuple):
    """Two thin matrices that make a tensor: `W = base + scaling * B @ A`.

    `W` is `(outputs, inputs)`, as in PEFT, however the target stores it: a tensor with its outputs
    behind its inputs (a Flax kernel, GPT-2's `Conv1D`, the table of an embedding) is the transpose
    of that. The axes of a convolution's kernel are merged with the axis that they are stored next
    to. A form without a base (`LowRank`) has `W = scaling * B @ A`.

    Attributes:
        a: `(*batch, rank, inputs)`.
        b: `(*batch, outputs, rank)`.
        scaling: A number.
    """

    a: Any
    b: Any
    scaling: float = 1.0

    @property
    def rank(self) -> int:
        """The inner size of the product."""
        return int(self.a.shape[-2])

    @property
    def batch(self) -> tuple[int, ...]:
        """The dimensions of the conditions."""
        return tuple(self.a.shape[:-2])


def transposed(tensor: TensorSpec) -> bool:
    """Whether a tensor, as a matrix `(rows, columns)`, has its outputs as the columns."""
    return bool(tensor.out_axes) and 0 not in tensor.out_axes


def as_matrix(tensor: TensorSpec) -> tuple[int, int]:
    """Return a tensor's outputs and inputs, as `Factors` have them."""
    split = tensor.matrix_split
    rows, columns = math.prod(tensor.shape[:split]), math.prod(tensor.shape[split:])
    return (columns, rows) if transposed(tensor) else (rows, columns)


def rows_first(factors: Factors, tensor: TensorSpec) -> tuple[Any, Any]:
    """Return `U` and `V` of the tensor as it is stored: `(rows, rank)` and `(rank, columns)`."""
    return (factors.a.mT, factors.b.mT) if transposed(tensor) else (factors.b, factors.a)


def dense(factors: Factors, tensor: TensorSpec, base: Any) -> Any:
    """Form the tensor, `(*batch, *shape)`; `base` is `None` where there is none."""
    u, v = rows_first(factors, tensor)
    change = factors.scaling * (u @ v)
    change = change.reshape((*change.shape[:-2], *tensor.shape))
    return change if base is None else base + change


def join_factors(plan: Plan, parts: Sequence[Any], banks: Sequence[Any]) -> dict[str, Factors]:
    """Return the factors of every tensor that has any.

    Args:
        plan: The plan.
        parts: `(*batch, *part shape)`, in the order of `plan.pieces`.
        banks: The plan's banks.

    Raises:
        ValueError: No tensor has factors.
    """
    factors = {}
    for entry, rows in plan.rows_by_name.values():
        structure = plan.structures[entry.tensor]
        parts_of_tensor = tuple(parts[row] + structure.plus for row in rows)
        found = structure.factors(parts_of_tensor, bank_of(entry, banks))
        if found is not None:
            u, v, scaling = found
            a, b = (u.mT, v.mT) if transposed(plan.spec[entry.tensor]) else (v, u)
            factors[entry.tensor] = Factors(a, b, scaling)
    if not factors:
        forms = sorted({str(entry.form) for entry in plan.entries})
        wanted = "a form with factors, such as LoRA, for one tensor at least"
        way_out = "generate() returns what other forms give."
        raise ValueError(message("form", ", ".join(forms), wanted, way_out))
    return factors


def check_factors(factors: Factors, tensor: TensorSpec) -> tuple[int, ...]:
    """Return the batch of given factors.

    Raises:
        ValueError: They do not fit the tensor.
    """
    argument = f"params[{tensor.name!r}]"
    outputs, inputs = as_matrix(tensor)
    a, b = list(factors.a.shape), list(factors.b.shape)
    fits = len(a) >= 2 and len(b) >= 2 and a[:-2] == b[:-2] and a[-2] == b[-1]
    if not fits or (b[-2], a[-1]) != (outputs, inputs):
        got = f"factors a {tuple(a)} and b {tuple(b)}"
        wanted = f"a (*batch, rank, {inputs}) and b (*batch, {outputs}, rank)"
        raise ValueError(message(argument, got, wanted))
    return tuple(a[:-2])


def concatenate(
    factors: Any, weights: Any, join: Callable[[list[Any], int], Any]
) -> dict[str, Factors]:
    """See `protocol.Backend.concatenate`; `join` joins arrays along an axis."""
    if isinstance(factors, Mapping):
        return _sum_of_batch(_checked("factors", factors), weights)
    if not isinstance(factors, (list, tuple)) or not factors:
        wanted = f"{ADAPTER}, or a list of such"
        raise TypeError(message("factors", shown(factors), wanted))
    adapters = [_checked(f"factors[{i}]", adapter) for i, adapter in enumerate(factors)]
    for i, adapter in enumerate(adapters):
        if set(adapter) != set(adapters[0]):
            other = sorted(set(adapter) ^ set(adapters[0]))
            got = f"{other[0]!r} in one of factors[0] and factors[{i}] only"
            raise ValueError(message("factors", got, "adapters of the same tensors"))
    numbers = _weights_of_list(weights, len(adapters))
    return {
        name: _joined([adapter[name] for adapter in adapters], numbers, name, join)
        for name in adapters[0]
    }


def _checked(argument: str, adapter: Any) -> dict[str, Factors]:
    adapter = a_mapping(argument, adapter, ADAPTER)
    for name, value in adapter.items():
        if not isinstance(value, Factors):
            raise TypeError(message(f"{argument}[{name!r}]", shown(value), "Factors"))
    return dict(adapter)


def _sum_of_batch(adapter: dict[str, Factors], weights: Any) -> dict[str, Factors]:
    """Return the sums over the last dimension of the batch."""
    summed = {}
    for name, (a, b, scaling) in adapter.items():
        if a.ndim < 3:
            got = f"factors of one condition for {name!r}"
            wanted = "factors of a batch, whose last dimension is summed over"
            raise ValueError(message("factors", got, wanted, "Give several in a list."))
        *batch, num, rank, inputs = a.shape
        if weights is not None:
            if tuple(getattr(weights, "shape", ())) != (*batch, num):
                wanted = f"an array of shape {(*batch, num)}, a number for each condition"
                raise ValueError(message("weights", shown(weights), wanted))
            b = b * weights[..., None, None]
        side = b.mT.reshape((*batch, num * rank, b.shape[-2]))
        summed[name] = Factors(a.reshape((*batch, num * rank, inputs)), side.mT, scaling)
    return summed


def _weights_of_list(weights: Any, num: int) -> list[float]:
    if weights is None:
        return [1.0] * num
    if not isinstance(weights, (list, tuple)) or len(weights) != num:
        wanted = f"a list of {num} numbers, one for each of factors"
        raise ValueError(message("weights", shown(weights), wanted))
    return [finite_float(f"weights[{i}]", number) for i, number in enumerate(weights)]


def _joined(
    adapters: list[Factors], weights: list[float], name: str, join: Callable[..., Any]
) -> Factors:
    """Return the factors of a weighted sum: ranks side by side."""
    sizes = {(f.batch, f.a.shape[-1], f.b.shape[-2]) for f in adapters}
    if len(sizes) > 1:
        shapes = " and ".join(f"a {tuple(f.a.shape)}, b {tuple(f.b.shape)}" for f in adapters[:2])
        wanted = "equal shapes but for the rank"
        raise ValueError(message("factors", f"{shapes} for {name!r}", wanted))
    scalings = {f.scaling for f in adapters}
    scaling = scalings.pop() if len(scalings) == 1 else 1.0
    sides = []
    for f, weight in zip(adapters, weights, strict=True):
        number = weight if scaling == f.scaling else weight * f.scaling
        sides.append(f.b if number == 1.0 else number * f.b)
    return Factors(join([f.a for f in adapters], -2), join(sides, -1), scaling)
