"""The executor: a plan and its modules, run. Pure functions of what the modules hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.backend.walk import SLOT_TABLES, join
from hyperloom._core.plan.plan import NO_PIECE, Plan
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.heads import Seen
from hyperloom.jax._target.variables import is_traced


def raw_numbers(
    plan: Plan, heads: Any, encoded: Encoded, features: Mapping[int, Array]
) -> list[Array]:
    """Run every head: `(*batch, num_slots * slot_size)` for each, in the plan's order.

    All slots of a head are one product: what is compiled does not grow with their number.

    Args:
        plan: The plan.
        heads: Its heads.
        encoded: The conditions.
        features: What the heads are run on, as `slot_features` returns it.
    """
    outputs = []
    for i, head in enumerate(plan.heads):
        seen = Seen(features.get(i), encoded.ids, encoded.batch)
        outputs.append(heads[head.name].numbers(seen))
    return outputs


def slot_features(
    plan: Plan, trunks: Any, heads: Any, encoded: Encoded, key: Array | None = None
) -> dict[int, Array]:
    """Run every trunk once, on the slots of all its heads: head index -> `(*batch, C, F)`."""
    features_of_head: dict[int, Array] = {}
    tables = heads[SLOT_TABLES] if plan.slot_tables else None
    for index, width in enumerate(plan.widths):
        members = plan.trunk_heads[index]
        trunk = trunks[index]
        if not width:
            features = _run_trunk(plan, trunk, encoded, None, key)
            features_of_head.update((i, features) for i in members)
            continue
        given = (encoded.ids, tables, encoded.vector.dtype)
        slots = [heads[plan.heads[i].name].slot_embeddings(*given) for i in members]
        if any(s.ndim > 2 for s in slots):
            slots = [jnp.broadcast_to(s, (*encoded.batch, *s.shape[-2:])) for s in slots]
        wide = slots[0] if len(slots) == 1 else jnp.concatenate(slots, axis=-2)
        features = _run_trunk(plan, trunk, encoded, wide, key)
        ends = np.cumsum([plan.heads[i].num_slots for i in members])
        features_of_head.update(zip(members, jnp.split(features, ends[:-1], axis=-2), strict=True))
    return features_of_head


def _run_trunk(
    plan: Plan, trunk: Any, encoded: Encoded, slots: Array | None, key: Array | None
) -> Array:
    """Run a trunk on slots one by one, or on all of them at once and the context."""
    if plan.trunk_over_slots:
        return trunk(encoded, slots)
    return trunk(encoded.vector, slots, key, encoded.ids)


def assemble(
    plan: Plan,
    raw: list[Array],
    scales: Array | None,
    bases: Mapping[str, Array],
    banks: Sequence[Array],
    dtypes: Mapping[str, Any],
) -> dict[str, Array]:
    """Cut the heads' numbers into tensors: `{name: (*batch, *shape)}` in the wanted dtypes.

    Args:
        plan: The plan.
        raw: `(*batch, num_slots * slot_size)` for each head.
        scales: `(num_pieces, 2)`, scale and shift of each piece; `None` if no head has any.
        bases: The tensors that forms with a base change.
        banks: The plan's banks.
        dtypes: Wanted dtype of each tensor.
    """
    tensors = join(plan, cut(plan, raw, scales), bases, banks)
    return {name: value.astype(dtypes[name]) for name, value in tensors.items()}


def cut(plan: Plan, raw: list[Array], scales: Array | None) -> list[Array]:
    """Cut the heads' numbers into parts `(*batch, *shape)`, in the order of `plan.pieces`."""
    parts: list[Any] = [None] * len(plan.pieces)
    for head, flat, (rows, sizes) in zip(plan.heads, raw, plan.sections, strict=True):
        if head.scaled:
            assert scales is not None
            flat = scale_and_shift(flat, scales, rows, sizes)
        cuts = jnp.split(flat, np.cumsum(sizes)[:-1], axis=-1)
        for row, part in zip(rows, cuts, strict=False):
            if row != NO_PIECE:
                parts[row] = plan.pieces[row].arrange(part, jnp.transpose)
    return parts


def scale_and_shift(
    flat: Array, scales: Array, rows: tuple[int, ...], sizes: tuple[int, ...]
) -> Array:
    """Give each range of a head's output `(*batch, C * S)` its scale and shift."""
    # What is cut off, at the end, gets those of the last range.
    range_of_number = np.minimum(np.repeat(np.arange(len(sizes)), sizes), len(rows) - 1)
    pairs = scales[np.asarray(rows)[range_of_number]]
    return flat * pairs[:, 0] + pairs[:, 1]


def feature_moments(plan: Plan, trunks: Any, heads: Any, encoded: Encoded) -> dict[int, Any]:
    """Measure the mean square of each head's features on sample conditions.

    Initialisation divides by it, so that generated tensors have the plan's variance whatever
    the trunk is.
    """
    graphdef, state = nnx.split((trunks, heads))

    @jax.jit  # one compilation, rather than one for every operation
    def features(state: Any, encoded: Encoded) -> dict[int, Array]:
        trunks, heads = nnx.merge(graphdef, state)
        trunks.eval()
        return slot_features(plan, trunks, heads, encoded)

    features_of_head = features(state, encoded)
    return {i: _moment(features) for i, features in features_of_head.items()}


def _moment(features: Array) -> Any:
    """Return the mean square; 1 for a trunk that gives only zeros, which sets no scale."""
    if is_traced(features):
        moment = jnp.square(features).mean()
        return jnp.where((moment > 0) & (moment < jnp.inf), moment, 1.0)
    moment = float(np.square(np.asarray(features, np.float64)).mean())
    return moment if 0 < moment < float("inf") else 1.0
