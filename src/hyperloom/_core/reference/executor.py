"""The oracle: any plan executed in plain NumPy, slowly, one condition and one slot at a time.

It shares no code with the backends' executors: positions come from `Piece.indices`, not from
views, and every slot is run by itself. Backends are tested against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hyperloom._core.choices.conditions import Concat, Condition, CosSin, Embedding, Recurrent
from hyperloom._core.choices.deconv import Deconv
from hyperloom._core.choices.layouts import Head, slot_signs
from hyperloom._core.choices.sets import AttentionPool, Context, Elements, MeanPool
from hyperloom._core.choices.slot_trunks import Perceiver, Transformer
from hyperloom._core.choices.trunks import MLP, Linear
from hyperloom._core.errors import message
from hyperloom._core.plan.plan import Plan
from hyperloom._core.records import SlotTable
from hyperloom._core.reference.attention import pool, real_elements, transform
from hyperloom._core.reference.deconv import activate, draw_image

Tensors = Mapping[str, np.ndarray]


def generate(plan: Plan, tensors: Tensors, condition: Any) -> dict[str, np.ndarray]:
    """Generate the target's tensors for one condition.

    Args:
        plan: The plan.
        tensors: All learned tensors, named as in a checkpoint: `condition.table`,
            `trunks.0.0.weight`, `heads.full.weight`, `heads.chunked.slots`, `bases.fc.weight` ...
        condition: Raw value of one condition: an id, a vector, a pair of a vector and a state for
            `Recurrent`, or a tuple for `Concat`.

    Returns:
        `{name: array of the tensor's shape}`, in the dtype of `tensors`.

    Raises:
        TypeError: The plan holds a module of the user's own, or batch norm in its trunk, which
            cannot be executed without its framework.
    """
    vector = vector_of(plan.condition, tensors, condition, "condition")
    index = _id(plan.condition, condition)
    if plan.trunk.over_slots:
        context = _context(plan.condition, condition)
        features = _features_over_slots(plan, tensors, vector, context, index)
        flat = [_run_head(plan, h, tensors, vector, index, features) for h in plan.heads]
    else:
        flat = [_run_head(plan, head, tensors, vector, index) for head in plan.heads]
    generated, row = {}, 0
    for entry in plan.entries:
        parts, tensor = [], plan.spec[entry.tensor]
        structure = entry.form.structure(tensor)
        for piece in entry.pieces:
            part = flat[piece.head][piece.indices()]
            if plan.heads[piece.head].scaled:
                scale, shift = tensors["scales"][row]
                part = part * scale + shift
            parts.append(part + structure.plus)
            row += 1
        base = tensors[f"bases.{entry.tensor}"] if entry.form.has_base else None
        bank = None if entry.bank is None else tensors[f"banks.{entry.bank}"]
        generated[entry.tensor] = structure.dense(tuple(parts), base, bank, tensor.shape)
    return generated


def vector_of(
    condition: Condition, tensors: Tensors, value: Any, name: str = "condition"
) -> np.ndarray:
    """Return the vector `(E,)` of one condition."""
    if isinstance(condition, Embedding):
        return tensors[f"{name}.table"][int(value)]
    if isinstance(condition, Concat):
        pairs = zip(condition.parts, value, strict=True)
        vectors = [vector_of(p, tensors, v, f"{name}.parts.{i}") for i, (p, v) in enumerate(pairs)]
        return np.concatenate(vectors)
    if isinstance(condition, Recurrent):
        new = recurrent_step(condition, tensors, *value, name=name)
        return new[0] if isinstance(new, tuple) else new
    if isinstance(condition, CosSin):
        angles = np.asarray(value) * np.pi / 2
        return np.concatenate([np.cos(angles), np.sin(angles)])
    if isinstance(condition, (MeanPool, AttentionPool)):
        return pool(condition, tensors, value, name)
    if isinstance(condition, Context):
        return np.zeros(0)
    if type(condition).__name__ in ("Vector", "Noise"):
        return np.asarray(value)
    raise TypeError(message("plan", condition, "a condition that NumPy can compute"))


def recurrent_step(
    choice: Recurrent, tensors: Tensors, x: np.ndarray, state: Any, name: str = "condition"
) -> Any:
    """Return the next state of a recurrent condition, `h` or the pair `(h, c)`, of one condition.

    Args:
        choice: The condition.
        tensors: All learned tensors.
        x: This step's raw value `(dim,)`.
        state: The state before, or `None` for zeros.
        name: What the names of its tensors start with.
    """
    zeros = np.zeros(choice.hidden, tensors[f"{name}.weight_ih"].dtype)
    h, c = state if choice.cell == "lstm" and state is not None else (state, zeros)
    h = zeros if h is None else h
    from_x = tensors[f"{name}.weight_ih"] @ x + tensors[f"{name}.bias_ih"]
    from_h = tensors[f"{name}.weight_hh"] @ h + tensors[f"{name}.bias_hh"]
    if choice.cell == "rnn":
        return np.tanh(from_x + from_h)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    if choice.cell == "gru":
        (r, u, n), (rh, uh, nh) = np.split(from_x, 3), np.split(from_h, 3)
        r, u = sigmoid(r + rh), sigmoid(u + uh)
        return (1 - u) * np.tanh(n + r * nh) + u * h
    i, f, g, o = np.split(from_x + from_h, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def _id(condition: Condition, value: Any) -> int | None:
    if isinstance(condition, Embedding):
        return int(value)
    if isinstance(condition, Concat) and condition.num_ids is not None:
        known = [p.num_ids is not None for p in condition.parts]
        return _id(condition.parts[known.index(True)], value[known.index(True)])
    return None


def _context(condition: Condition, value: Any) -> np.ndarray | None:
    """Return the elements `(L, dim)` of the condition's context, if it has one."""
    if isinstance(condition, Concat):
        pairs = zip(condition.parts, value, strict=True)
        return next((_context(p, v) for p, v in pairs if p.context_width), None)
    known = isinstance(condition, Elements) and condition.context_width
    return real_elements(condition, value) if known else None  # type: ignore[arg-type]


def _run_head(
    plan: Plan,
    head: Head,
    tensors: Tensors,
    vector: np.ndarray,
    index: int | None,
    features: dict[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Return the head's numbers as one flat row `(num_slots * slot_size,)`."""
    name = f"heads.{head.name}"
    if head.shared:
        return tensors[f"{name}.row"]
    if head.table:
        return tensors[f"{name}.table"][index]
    out = []
    for slot in range(head.num_slots):
        if features is None:
            token = _token(head, tensors, vector, index, slot)
            f = _run_trunk(plan, plan.trunk_index(head), tensors, token)
        else:
            f = features[head.name][slot]
        if head.given:
            out.append(f)
            continue
        if head.signs:
            f = f * slot_signs(head.num_slots, len(f))[slot]
        out.append(tensors[f"{name}.weight"] @ f + tensors[f"{name}.bias"])
    return np.concatenate(out)


def _token(
    head: Head, tensors: Tensors, vector: np.ndarray, index: int | None, slot: int
) -> np.ndarray:
    """Return what the trunk sees for one slot: the vector, and the slot's embedding beside it."""
    if not head.embedding:
        return vector
    if head.lookups:
        rows = [_row(part.table, part.rows[slot], tensors) for part in head.lookups]
        told = sum(rows) / np.sqrt(len(rows)) if head.summed else np.concatenate(rows)
        return np.concatenate([vector, told])
    slots = tensors[f"heads.{head.name}.slots"]
    return np.concatenate([vector, slots[index, slot] if head.per_condition else slots[slot]])


def _row(table: SlotTable, row: int, tensors: Tensors) -> np.ndarray:
    """Return a row of a table that says what slots are."""
    return tensors[f"heads.slot_tables.{table.name}"][row] if table.learned else table.rows()[row]


def _features_over_slots(
    plan: Plan,
    tensors: Tensors,
    vector: np.ndarray,
    context: np.ndarray | None,
    index: int | None,
) -> dict[str, np.ndarray]:
    """Run every trunk on all slots that it sees: for each head features `(C, F)`."""
    features = {}
    for trunk, heads in enumerate(plan.trunk_heads):
        members = [plan.heads[i] for i in heads]
        # Heads without embeddings all see the one token of the vector.
        single = not plan.widths[trunk]
        places = (
            [(members[0], 0)] if single else [(h, s) for h in members for s in range(h.num_slots)]
        )
        tokens = np.stack([_token(h, tensors, vector, index, s) for h, s in places])
        if not isinstance(plan.trunk, (Transformer, Perceiver)):
            raise TypeError(message("plan", plan.trunk, "a trunk that NumPy can compute"))
        rows = transform(plan.trunk, tensors, f"trunks.{trunk}", tokens, context)
        first = 0
        for head in members:
            features[head.name] = rows[first : first + head.num_slots]
            first += 0 if single else head.num_slots
    return features


def _run_trunk(plan: Plan, index: int, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    trunk = plan.trunk
    if isinstance(trunk, Linear):
        return x
    if isinstance(trunk, Deconv) and not trunk.norm:
        return draw_image(trunk, tensors, f"trunks.{index}", x)
    if not isinstance(trunk, MLP) or trunk.norm == "batch":
        raise TypeError(message("plan", trunk, "a trunk that NumPy can compute"))
    for i in range(len(trunk.widths)):
        name = f"trunks.{index}.{i}"
        weight = tensors[f"{name}.weight"]
        if trunk.spectral:
            weight = weight / np.linalg.norm(weight, 2)
        x = weight @ x + tensors[f"{name}.bias"]
        if trunk.norm == "layer":
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
            x = x * tensors[f"{name}.norm_weight"] + tensors[f"{name}.norm_bias"]
        x = activate(trunk.activation, x)
    if trunk.norm == "rms":
        x = x / np.sqrt((x * x).mean() + 1e-6)
    return x
