"""Condition objects built as modules: raw value -> vector, and ids where there are any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hyperloom._core.backend.checks import context_dim, context_wanted
from hyperloom._core.choices.conditions import (
    Concat,
    Condition,
    CosSin,
    Custom,
    CustomRecurrent,
    Embedding,
    Noise,
    Recurrent,
    Vector,
)
from hyperloom._core.choices.sets import AttentionPool, Context, Elements, MeanPool
from hyperloom._core.errors import call_it, message, positive_int, shown
from hyperloom.torch._generate.encoded import NUMPY, Encoded, floating, refuse_meta
from hyperloom.torch._generate.recurrent import RecurrentCondition
from hyperloom.torch._generate.sets import (
    AttentionPoolCondition,
    ContextCondition,
    MeanPoolCondition,
    check_mask,
)
from hyperloom.torch._generate.table import Table, unit_rows

_SETS: dict[type, Any] = {
    Context: ContextCondition,
    MeanPool: MeanPoolCondition,
    AttentionPool: AttentionPoolCondition,
}
_INTEGERS = (
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)


class EmbeddingCondition(nn.Module):
    """`Embedding`, built."""

    def __init__(self, choice: Embedding) -> None:
        super().__init__()
        self.choice = choice
        self.table = Table(choice.num, choice.dim)
        self.reset(self.table[0])

    def reset(self, rows: Tensor) -> None:
        """Fill rows with normal draws of root mean square `std`, each row exactly."""
        with torch.no_grad():
            rows.copy_(self.choice.std * unit_rows(rows))

    def forward(self, value: Any) -> Encoded:
        ids = as_ids(value, self.table.num, self.table[0].device)
        return Encoded(self.table.look_up(ids), ids)


class VectorCondition(nn.Module):
    """`Vector` and `Noise`, built."""

    like: Tensor

    def __init__(self, choice: Vector) -> None:
        super().__init__()
        self.choice = choice
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, value: Any, batch: Sequence[int] = ()) -> Encoded:
        # Past nn.Module's look-up of attributes: it takes longer than the rest of this.
        like: Any = self._buffers["like"]
        if type(value) is Tensor and self._fits(value, like):
            return Encoded(self._encoded(value if value.device == like.device else value.to(like)))
        name, dim = type(self.choice).__name__, self.choice.dim
        if isinstance(self.choice, Noise) and (value is None or type(value) is int):
            shape = (*batch, dim) if value is None else (positive_int("condition", value), dim)
            draw = torch.randn(shape, dtype=self.like.dtype, device=self.like.device)
            return Encoded(draw * self.choice.std)
        wanted = f"a floating tensor (*batch, {dim}) for {name}({dim})"
        return Encoded(self._encoded(floating(value, dim, self.like, wanted)))

    def _encoded(self, value: Tensor) -> Tensor:
        """Return the vector of a value that is right."""
        if not isinstance(self.choice, CosSin):
            return value
        angles = value * (math.pi / 2)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def _fits(self, value: Tensor, like: Tensor) -> bool:
        """Whether nothing can be wrong with a value; most are so."""
        fits = value.ndim > 0 and value.shape[-1] == self.choice.dim
        return fits and value.dtype == like.dtype and not value.is_meta


class CustomCondition(nn.Module):
    """A module of the user's own: its output is the vector; beside it a state, or a context."""

    def __init__(self, module: nn.Module, dim: int, context: int = 0) -> None:
        super().__init__()
        self.module = module
        self.dim, self.context = dim, context
        self.has_carry = bool(getattr(module, "has_carry", False))

    def forward(self, value: Any, carry: Any = None) -> Encoded:
        values = value if isinstance(value, tuple) else (value,)
        output = self.module(*values, carry) if self.has_carry else self.module(*values)
        name = type(self.module).__name__
        if self.context:
            return self._with_context(name, output)
        wanted = f"a tensor (*batch, {self.dim}), as its width says"
        vector, new = output, None
        if self.has_carry:
            if not isinstance(output, tuple) or len(output) != 2:
                pair = "a pair (vector, state), as its `has_carry` says"
                raise ValueError(message(f"condition module {name}", shown(output), pair))
            vector, new = output
        if not isinstance(vector, Tensor) or vector.ndim == 0 or vector.shape[-1] != self.dim:
            raise ValueError(message(f"condition module {name}", shown(vector), wanted))
        return Encoded(vector, None, new)

    def _with_context(self, name: str, output: Any) -> Encoded:
        """Return a vector and a context, with a mask where there is one."""
        argument, wanted = f"condition module {name}", context_wanted(self.dim, self.context)
        if not isinstance(output, tuple) or len(output) not in (2, 3):
            raise ValueError(message(argument, shown(output), wanted))
        vector, context, mask = (*output, None)[:3]
        if not isinstance(context, Tensor) or context.ndim < 2:
            raise ValueError(message(argument, f"the context {shown(context)}", wanted))
        if vector is None and not self.dim:
            vector = context.new_zeros((*context.shape[:-2], 0))
        shape = (*context.shape[:-2], self.dim)
        if not isinstance(vector, Tensor) or tuple(vector.shape) != shape:
            raise ValueError(message(argument, f"the vector {shown(vector)}", wanted))
        if context.shape[-1] != self.context:
            raise ValueError(message(argument, f"the context {shown(context)}", wanted))
        if mask is not None:
            check_mask(mask, context, argument)
            context = context.masked_fill(~mask.unsqueeze(-1), 0.0)
        return Encoded(vector, None, None, context, mask)


class ConcatCondition(nn.Module):
    """`Concat`, built: parts side by side, batched alike."""

    def __init__(self, parts: Sequence[nn.Module], has_ids: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.has_ids = has_ids
        self.has_carry = any(_has_carry(part) for part in parts)

    def forward(self, value: Any, carry: Any = None) -> Encoded:
        num = len(self.parts)
        if not isinstance(value, (tuple, list)) or len(value) != num:
            wanted = f"a tuple of {num} values, one for each part of Concat"
            raise TypeError(message("condition", shown(value), wanted))
        states = (None,) * num if carry is None else carry
        if not isinstance(states, (tuple, list)) or len(states) != num:
            wanted = f"a tuple of {num} states, None for the parts of Concat that have none"
            raise TypeError(message("carry", shown(carry), wanted))
        encoded: list[Encoded | None] = [
            None if self._drawn(part, v) else part(v, s) if _has_carry(part) else part(v)
            for part, v, s in zip(self.parts, value, states, strict=True)
        ]
        batch = _common_batch([result for result in encoded if result is not None])
        done = [
            part(None, batch) if result is None else result
            for part, result in zip(self.parts, encoded, strict=True)
        ]
        new = tuple(m.carry for m in done) if self.has_carry else None
        return joined(done, batch, self.has_ids)._replace(carry=new)

    @staticmethod
    def _drawn(part: nn.Module, value: Any) -> bool:
        """Whether a part is noise to be drawn, whose batch the other parts tell."""
        is_noise = isinstance(part, VectorCondition) and isinstance(part.choice, Noise)
        return is_noise and value is None


def _has_carry(part: nn.Module) -> bool:
    return bool(getattr(part, "has_carry", False))


def joined(
    parts: Sequence[Encoded], batch: Sequence[int] | None = None, has_ids: bool = True
) -> Encoded:
    """Put conditions side by side; one condition goes with any batch.

    Args:
        parts: The conditions.
        batch: Their batch; default that of the first.
        has_ids: Whether the ids of one of them are those of all.
    """
    front = tuple(parts[0].batch if batch is None else batch)
    whole = [
        part.each(lambda t, own=part: t.expand((*front, *t.shape[len(own.batch) :])))
        for part in parts
    ]
    ids = [part.ids for part in whole if part.ids is not None] if has_ids else []
    sets = [(part.context, part.mask) for part in whole if part.context is not None]
    context, mask = sets[0] if sets else (None, None)
    vector = torch.cat([part.vector for part in whole], dim=-1)
    return Encoded(vector, ids[0] if ids else None, None, context, mask)


def _common_batch(parts: list[Encoded]) -> torch.Size:
    """Return the batch of all parts; one condition `()` goes with any batch."""
    batches = {part.batch for part in parts if part.batch}
    if len(batches) > 1:
        got = " and ".join(str(tuple(b)) for b in sorted(batches))
        raise ValueError(
            message("condition", f"parts of Concat with batches {got}", "parts of one batch")
        )
    return batches.pop() if batches else torch.Size()


def build_condition(choice: Any) -> tuple[Condition, nn.Module]:
    """Return the neutral object and the module for a condition object or a module.

    Raises:
        TypeError: Neither of the two, or a module whose output width cannot be told.
    """
    if isinstance(choice, Concat):
        built = [build_condition(part) for part in choice.parts]
        neutral = Concat(*(n for n, _ in built))
        return neutral, ConcatCondition([m for _, m in built], neutral.num_ids is not None)
    if isinstance(choice, Embedding):
        return choice, EmbeddingCondition(choice)
    if isinstance(choice, Vector):
        return choice, VectorCondition(choice)
    if isinstance(choice, Recurrent):
        return choice, RecurrentCondition(choice)
    if isinstance(choice, Elements):
        return choice, _SETS[type(choice)](choice)
    if isinstance(choice, nn.Module):
        context = context_dim(choice, _has_carry(choice))
        dim = getattr(choice, "dim", 0) if context else output_width("condition", choice)
        size = sum(p.numel() for p in choice.parameters())
        kind = CustomRecurrent if _has_carry(choice) else Custom
        neutral = kind(dim, type(choice).__name__, size, context=context)
        return neutral, CustomCondition(choice, dim, context)
    wanted = "a condition object (Embedding, Vector, Noise, Recurrent, Context, Concat) or a "
    wanted += "torch.nn.Module"
    raise TypeError(message("condition", shown(choice), wanted, call_it(choice)))


def output_width(argument: str, module: nn.Module) -> int:
    """Return the width of a module's output, told by an attribute or by its last layer."""
    for attribute in ("dim", "out_features", "embedding_dim"):
        width = getattr(module, attribute, None)
        if isinstance(width, int):
            return width
    for layer in reversed(list(module.modules())):
        if isinstance(layer, nn.Linear):
            return layer.out_features
    raise TypeError(
        message(
            argument,
            f"a {type(module).__name__} whose output width cannot be told",
            "a module with an int attribute `dim`, the width of its output",
            f"Set it: module.dim = ...; then pass it as {argument}.",
        )
    )


def as_ids(value: Any, num: int, device: torch.device) -> Tensor:
    """Return ids `(*batch,)` as an integer tensor, checked against `num`.

    Raises:
        TypeError: Not ints.
        IndexError: An id below 0 or not below `num`. Inside `vmap` and `torch.compile`, where
            values cannot be read, the look-up itself is left to object.
    """
    wanted = f"an int id, a list of ints or an integer tensor, each in 0 .. {num - 1}"
    if isinstance(value, bool):
        raise TypeError(message("condition", value, wanted))
    given = value
    if torch.compiler.is_compiling() and isinstance(value, (int, range, list, tuple)):
        value = _traced(value, device)
    elif isinstance(value, range) or (isinstance(value, (list, tuple)) and not value):
        value = _tensor(np.asarray(value, np.int64), device)
    elif isinstance(value, (int, list, tuple, *NUMPY)):
        value = _tensor(value, device)
    if not isinstance(value, Tensor):
        raise TypeError(message("condition", shown(given), wanted))
    if value.dtype not in _INTEGERS:
        way_out = "For a vector as condition use Vector(dim); otherwise call .long()."
        raise TypeError(message("condition", shown(given), wanted, way_out))
    if value.is_meta:
        refuse_meta(value, device)
    value = value if value.dtype == torch.int64 else value.long()
    # An int was there to read before it became a tensor.
    low, high = (given, given) if isinstance(given, int) else _range(value)
    if low < 0 or high >= num:
        bad = low if low < 0 else high
        way_out = "Add new ids with add_conditions(num)."
        raise IndexError(message("condition", f"the id {bad}", wanted, way_out))
    return value


def _range(ids: Tensor) -> tuple[int, int]:
    """Return the lowest and the highest id; zeros where they cannot be read."""
    if torch.compiler.is_compiling() or not ids.numel():
        return 0, 0
    try:
        if ids.numel() == 1:
            only = int(ids.item())
            return only, only
        low, high = torch.aminmax(ids)
        return int(low), int(high)
    except RuntimeError:  # a traced value cannot be read
        return 0, 0


def _traced(value: Any, device: torch.device) -> Tensor:
    """Return ids as a tensor in a graph, in which the numbers need not be constants."""
    if isinstance(value, range):
        return torch.arange(value.start, value.stop, value.step, device=device)
    if isinstance(value, (list, tuple)) and not value:
        return torch.zeros(0, dtype=torch.int64, device=device)
    return torch.tensor(value, device=device)


def _tensor(value: Any, device: torch.device) -> Tensor | None:
    """Return ints or nested lists of them as a tensor; `None` for what makes none."""
    try:
        return torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError):  # strings, ragged lists, more than 64 bits
        return None
