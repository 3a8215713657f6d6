"""Condition objects built as modules: raw value -> vector, and ids where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

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
from hyperloom._core.errors import call_it, message, positive_int
from hyperloom.jax._generate.draws import Start
from hyperloom.jax._generate.encoded import Encoded, shown
from hyperloom.jax._generate.linen import as_part, class_name
from hyperloom.jax._generate.recurrent import RecurrentCondition
from hyperloom.jax._generate.sets import (
    AttentionPoolCondition,
    ContextCondition,
    MeanPoolCondition,
    check_mask,
)
from hyperloom.jax._generate.table import Table
from hyperloom.jax._target.streams import draw
from hyperloom.jax._target.variables import is_traced, walk

_SETS: dict[type, Any] = {
    Context: ContextCondition,
    MeanPool: MeanPoolCondition,
    AttentionPool: AttentionPoolCondition,
}


class EmbeddingCondition(nnx.Module):
    """`Embedding`, built."""

    def __init__(self, choice: Embedding, start: Start) -> None:
        self.choice = choice
        self.table = Table(self.new_rows(choice.num, start))

    def new_rows(self, num: int, start: Start) -> Array:
        """Return normal draws of root mean square `std`, each row exactly."""
        return start.unit_rows((num, self.choice.dim), self.choice.std)

    def __call__(self, value: Any, keys: Any = None) -> Encoded:
        ids = as_ids(value, self.table.num)
        return Encoded(self.table.look_up(ids), ids)


class VectorCondition(nnx.Module):
    """`Vector` and `Noise`, built."""

    def __init__(self, choice: Vector, start: Start) -> None:
        self.choice = choice
        self.dtype = start.dtype
        self.noise = start.rngs.noise.fork() if isinstance(choice, Noise) else nnx.data(None)

    def __call__(
        self, value: Any, keys: nnx.Rngs | None = None, batch: Sequence[int] = ()
    ) -> Encoded:
        name, dim = type(self.choice).__name__, self.choice.dim
        noise = isinstance(self.choice, Noise)
        if noise and isinstance(value, np.integer):
            value = int(value)
        if noise and (value is None or type(value) is int):
            shape = (*batch, dim) if value is None else (positive_int("condition", value), dim)
            key = draw(self.noise, "noise", keys)
            return Encoded(jax.random.normal(key, shape, self.dtype) * self.choice.std)
        wanted = f"a floating array (*batch, {dim}) for {name}({dim})"
        wanted += ", or how many to draw (an int, or None)" if noise else ""
        given = value
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if dim == 1 and (number or getattr(value, "shape", None) == ()):  # a vector of one
            value = jnp.asarray(value, self.dtype if number else None).reshape(1)
        if not isinstance(value, (Array, np.ndarray)):
            raise TypeError(message("condition", shown(given), wanted))
        if not jnp.issubdtype(value.dtype, jnp.floating):
            way_out = "For ids use Embedding(num, dim); otherwise call .astype(float)."
            raise TypeError(message("condition", shown(value), wanted, way_out))
        if value.ndim == 0 or value.shape[-1] != dim:
            raise ValueError(message("condition", shown(value), wanted))
        value = jnp.asarray(value, self.dtype)
        if isinstance(self.choice, CosSin):
            angles = value * (jnp.pi / 2)
            value = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return Encoded(value)


class CustomCondition(nnx.Module):
    """A module of the user's own: its output is the vector; beside it a state, or a context."""

    def __init__(self, module: nnx.Module, dim: int, context: int = 0) -> None:
        self.module = module
        self.dim, self.context = dim, context
        self.has_carry = _has_carry(module)

    def __call__(self, value: Any, keys: Any = None, carry: Any = None) -> Encoded:
        call: Any = self.module
        values = value if isinstance(value, tuple) else (value,)
        vector, new = call(*values, carry) if self.has_carry else call(*values), None
        name = type(self.module).__name__
        if self.context:
            return self._with_context(name, vector)
        if self.has_carry:
            if not isinstance(vector, tuple) or len(vector) != 2:
                pair = "a pair (vector, state), as its `has_carry` says"
                raise ValueError(message(f"condition module {name}", shown(vector), pair))
            vector, new = vector
        wanted = f"an array (*batch, {self.dim}), as its width says"
        if not isinstance(vector, Array) or vector.ndim == 0 or vector.shape[-1] != self.dim:
            raise ValueError(message(f"condition module {name}", shown(vector), wanted))
        return Encoded(vector, None, new)

    def _with_context(self, name: str, output: Any) -> Encoded:
        """Return a vector and a context, with a mask where there is one."""
        argument, wanted = f"condition module {name}", context_wanted(self.dim, self.context)
        if not isinstance(output, tuple) or len(output) not in (2, 3):
            raise ValueError(message(argument, shown(output), wanted))
        vector, context, mask = (*output, None)[:3]
        if not isinstance(context, Array) or context.ndim < 2:
            raise ValueError(message(argument, f"the context {shown(context)}", wanted))
        if vector is None and not self.dim:
            vector = jnp.zeros((*context.shape[:-2], 0), context.dtype)
        shape = (*context.shape[:-2], self.dim)
        if not isinstance(vector, Array) or tuple(vector.shape) != shape:
            raise ValueError(message(argument, f"the vector {shown(vector)}", wanted))
        if context.shape[-1] != self.context:
            raise ValueError(message(argument, f"the context {shown(context)}", wanted))
        if mask is not None:
            check_mask(mask, context, argument)
            context = jnp.where(mask[..., None], context, 0)
        return Encoded(vector, None, None, context, mask)

    def initial_carry(self, batch: tuple[int, ...]) -> Any:
        """Return the state before the first step, as the module gives it."""
        start = getattr(self.module, "initial_carry", None)
        if not callable(start):
            got = f"a {type(self.module).__name__} without a method `initial_carry`"
            wanted = "a module with `initial_carry(batch)`, batch a tuple of sizes"
            raise TypeError(message("condition", got, wanted))
        return start(batch)


class ConcatCondition(nnx.Module):
    """`Concat`, built: parts side by side, batched alike."""

    def __init__(self, parts: Sequence[nnx.Module], has_ids: bool) -> None:
        self.parts = nnx.List(parts)
        self.has_ids = has_ids
        self.has_carry = any(_has_carry(part) for part in parts)

    def __call__(self, value: Any, keys: nnx.Rngs | None = None, carry: Any = None) -> Encoded:
        num = len(self.parts)
        if not isinstance(value, (tuple, list)) or len(value) != num:
            wanted = f"a tuple of {num} values, one for each part of Concat"
            raise TypeError(message("condition", shown(value), wanted))
        parts: list[Any] = list(self.parts)
        carries = (None,) * num if carry is None else carry
        if not isinstance(carries, (tuple, list)) or len(carries) != num:
            wanted = f"a tuple of {num} states, None for the parts of Concat that have none"
            raise TypeError(message("carry", shown(carry), wanted))
        encoded_parts = [
            None
            if self._drawn(part, v)
            else (part(v, keys, c) if _has_carry(part) else part(v, keys))
            for part, v, c in zip(parts, value, carries, strict=True)
        ]
        batch = _common_batch([m for m in encoded_parts if m is not None])
        done = [
            part(None, keys, batch) if m is None else m
            for part, m in zip(parts, encoded_parts, strict=True)
        ]
        new = tuple(m.carry for m in done) if self.has_carry else None
        return replace(joined(done, batch, self.has_ids), carry=new)

    def initial_carry(self, batch: tuple[int, ...]) -> Any:
        """Return a tuple of the parts' states, `None` for those that have none."""
        parts: list[Any] = list(self.parts)
        return tuple(part.initial_carry(batch) if _has_carry(part) else None for part in parts)

    @staticmethod
    def _drawn(part: Any, value: Any) -> bool:
        """Whether a part is noise to be drawn, whose batch the other parts tell."""
        is_noise = isinstance(part, VectorCondition) and isinstance(part.choice, Noise)
        return is_noise and value is None


def _has_carry(part: Any) -> bool:
    return bool(getattr(part, "has_carry", False))


def joined(
    parts: Sequence[Encoded], batch: tuple[int, ...] | None = None, has_ids: bool = True
) -> Encoded:
    """Put conditions side by side; one condition goes with any batch.

    Args:
        parts: The conditions.
        batch: Their batch; default that of the first.
        has_ids: Whether the ids of one of them are those of all.
    """
    front = parts[0].batch if batch is None else batch
    whole = [
        part.each(lambda a, own=part: jnp.broadcast_to(a, (*front, *a.shape[len(own.batch) :])))
        for part in parts
    ]
    ids = [part.ids for part in whole if part.ids is not None] if has_ids else []
    sets = [(part.context, part.mask) for part in whole if part.context is not None]
    context, mask = sets[0] if sets else (None, None)
    vector = jnp.concatenate([part.vector for part in whole], axis=-1)
    return Encoded(vector, ids[0] if ids else None, None, context, mask)


def _common_batch(encoded_parts: list[Encoded]) -> tuple[int, ...]:
    """Return the batch of all parts; one condition `()` goes with any batch."""
    batches = {m.batch for m in encoded_parts if m.batch}
    if len(batches) > 1:
        got = " and ".join(str(b) for b in sorted(batches))
        raise ValueError(
            message("condition", f"parts of Concat with batches {got}", "parts of one batch")
        )
    return batches.pop() if batches else ()


def build_condition(choice: Any, start: Start) -> tuple[Condition, nnx.Module]:
    """Return the neutral object and the module for a condition object or a module.

    Raises:
        TypeError: Neither of the two, or a module whose output width cannot be told.
    """
    if isinstance(choice, Concat):
        built = [build_condition(part, start) for part in choice.parts]
        neutral = Concat(*(n for n, _ in built))
        return neutral, ConcatCondition([m for _, m in built], neutral.num_ids is not None)
    if isinstance(choice, Embedding):
        return choice, EmbeddingCondition(choice, start)
    if isinstance(choice, Vector):
        return choice, VectorCondition(choice, start)
    if isinstance(choice, Recurrent):
        return choice, RecurrentCondition(choice, start)
    if isinstance(choice, Elements):
        return choice, _SETS[type(choice)](choice, start)
    choice = as_part(choice)
    if isinstance(choice, nnx.Module):
        context = context_dim(choice, _has_carry(choice))
        dim = getattr(choice, "dim", 0) if context else output_width("condition", choice)
        kind = CustomRecurrent if _has_carry(choice) else Custom
        neutral = kind(dim, class_name(choice), num_learned(choice), context=context)
        return neutral, CustomCondition(choice, dim, context)
    wanted = (
        "a condition object (Embedding, Vector, Noise, Recurrent, Context, Concat), an "
        "nnx.Module or Linen(module, *inputs)"
    )
    raise TypeError(message("condition", shown(choice), wanted, call_it(choice)))


def num_learned(module: nnx.Module) -> int:
    """Return how many numbers a module learns, shared ones once."""
    params = {id(v): v for _, v in walk(module) if isinstance(v, nnx.Param)}
    return sum(v.size for v in params.values())


def output_width(argument: str, module: nnx.Module) -> int:
    """Return the width of a module's output, told by an attribute or by its last layer."""
    for attribute in ("dim", "out_features", "features"):
        width = getattr(module, attribute, None)
        if isinstance(width, int):
            return width
    linear = [m for _, m in nnx.iter_modules(module) if isinstance(m, nnx.Linear)]
    if isinstance(module, nnx.Sequential):
        linear = [m for m in module.layers if isinstance(m, nnx.Linear)]
        if linear:
            return linear[-1].out_features
    if len(linear) == 1:
        return linear[0].out_features
    raise TypeError(
        message(
            argument,
            f"a {type(module).__name__} whose output width cannot be told",
            "a module with an int attribute `dim`, the width of its output",
            f"Set it: module.dim = ...; then pass it as {argument}.",
        )
    )


def as_ids(value: Any, num: int) -> Array:
    """Return ids `(*batch,)` as an integer array, checked against `num`.

    Raises:
        TypeError: Not ints.
        IndexError: An id below 0 or not below `num`. Where values are traced and cannot be
            read, the look-up gives NaN instead.
    """
    wanted = f"an int id, a list of ints or an integer array, each in 0 .. {num - 1}"
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(message("condition", bool(value), wanted))
    ids = value
    if isinstance(value, (int, np.integer, list, tuple, range)):
        ids = _array(list(value) if isinstance(value, range) else value)
        ids = ids.astype(int) if ids is not None and not ids.size else ids  # of an empty list
    if not isinstance(ids, (Array, np.ndarray)):
        raise TypeError(message("condition", shown(value), wanted))
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        way_out = "For a vector as condition use Vector(dim); otherwise call .astype(int)."
        raise TypeError(message("condition", shown(value), wanted, way_out))
    if ids.size and not is_traced(ids):
        known = np.asarray(ids)  # in NumPy: inside jit, JAX traces what is done to constants too
        low, high = int(known.min()), int(known.max())
        if low < 0 or high >= num:
            way_out = "Add new ids with add_conditions(num)."
            bad = low if low < 0 else high
            raise IndexError(message("condition", f"the id {bad}", wanted, way_out))
    return jnp.asarray(ids)


def _array(value: Any) -> Any:
    """Return ints or nested lists of them as an array; `None` for what makes none."""
    try:
        return jnp.stack([jnp.asarray(v) for v in value]) if _traced(value) else np.asarray(value)
    except (TypeError, ValueError, OverflowError):  # strings, ragged lists, more than 64 bits
        return None


def _traced(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(v, Array) for v in value)
