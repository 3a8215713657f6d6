"""Attention in plain NumPy, one token after the other: trunks over slots and set encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hyperloom._core.choices.sets import AttentionPool, Elements
from hyperloom._core.choices.slot_trunks import Perceiver, Transformer
from hyperloom._core.reference.deconv import activate

Tensors = Mapping[str, np.ndarray]


def real_elements(condition: Elements, value: Any) -> np.ndarray:
    """Return the elements of a set that its mask does not hide, divided by their standard size."""
    elements, mask = value if isinstance(value, tuple) else (value, None)
    elements = np.asarray(elements) / condition.std
    return elements if mask is None else elements[np.asarray(mask, bool)]


def pool(condition: Elements, tensors: Tensors, value: Any, name: str) -> np.ndarray:
    """Return the vector `(E,)` of a set."""
    elements = real_elements(condition, value)
    if not isinstance(condition, AttentionPool):
        return elements.mean(0) if len(elements) else np.zeros(condition.dim, elements.dtype)
    keys, values = _pairs(tensors, name, elements, condition.width)
    mixed = _mix(tensors[f"{name}.seed"], keys, values, condition.heads)
    return tensors[f"{name}.out.weight"] @ mixed + tensors[f"{name}.out.bias"]


def transform(
    trunk: Transformer | Perceiver,
    tensors: Tensors,
    name: str,
    tokens: np.ndarray,
    context: np.ndarray | None,
) -> np.ndarray:
    """Run the trunk on all slots of a condition: tokens `(C, E + w)` -> features `(C, F)`."""
    weight, bias = tensors[f"{name}.first.weight"], tensors[f"{name}.first.bias"]
    x = np.stack([weight @ token + bias for token in tokens])
    if isinstance(trunk, Perceiver):
        read = tensors[f"{name}.latents"]
        for i in range(trunk.depth):
            source = x if context is None else context
            read = _layer(trunk, tensors, f"{name}.stages.{i}", read, source, (0, 1, 2))
        x = _layer(trunk, tensors, f"{name}.read", x, read, (1, 2))
    else:
        for i in range(trunk.depth):
            places = (0, 2) if context is None else (0, 1, 2)
            x = _layer(trunk, tensors, f"{name}.stages.{i}", x, context, places)
    return x if trunk.norm == "post" else np.stack([t / np.sqrt((t * t).mean() + 1e-6) for t in x])


def _layer(
    trunk: Transformer | Perceiver,
    tensors: Tensors,
    name: str,
    x: np.ndarray,
    context: np.ndarray | None,
    places: tuple[int, ...],
) -> np.ndarray:
    """Run those of the three parts of a layer that it has: among, across, between."""
    for place in places:

        def part(y: np.ndarray, place: int = place) -> np.ndarray:
            if place == 0:
                return _attend(trunk, tensors, f"{name}.among", y, y)
            if place == 2:
                return np.stack([_between(trunk, tensors, name, token) for token in y])
            assert context is not None
            return _attend(trunk, tensors, f"{name}.across", y, context)

        x = _add(trunk, tensors, f"{name}.norms.{place}", x, part)
    return x


def _add(
    trunk: Transformer | Perceiver, tensors: Tensors, norm: str, x: np.ndarray, part: Any
) -> np.ndarray:
    """Add what a part of a layer makes of the tokens, with its norm before or after."""
    normed = lambda y: np.stack([_layer_norm(tensors, norm, token) for token in y])  # noqa: E731
    return x + part(normed(x)) if trunk.norm == "pre" else normed(x + part(x))


def _layer_norm(tensors: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    standard = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return standard * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def _between(
    trunk: Transformer | Perceiver, tensors: Tensors, layer: str, token: np.ndarray
) -> np.ndarray:
    up = tensors[f"{layer}.up.weight"] @ token + tensors[f"{layer}.up.bias"]
    inner = activate(trunk.activation, up)
    return tensors[f"{layer}.down.weight"] @ inner + tensors[f"{layer}.down.bias"]


def _attend(
    trunk: Transformer | Perceiver,
    tensors: Tensors,
    name: str,
    tokens: np.ndarray,
    elements: np.ndarray,
) -> np.ndarray:
    keys, values = _pairs(tensors, name, elements, trunk.width)
    out = []
    for token in tokens:
        query = tensors[f"{name}.query.weight"] @ token + tensors[f"{name}.query.bias"]
        mixed = _mix(query, keys, values, trunk.heads)
        out.append(tensors[f"{name}.out.weight"] @ mixed + tensors[f"{name}.out.bias"])
    return np.stack(out)


def _pairs(
    tensors: Tensors, name: str, elements: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys and the values `(L, width)` of elements."""
    weight, bias = tensors[f"{name}.pairs.weight"], tensors[f"{name}.pairs.bias"]
    both = [weight @ element + bias for element in elements]
    pairs = np.stack(both) if both else np.zeros((0, 2 * width), weight.dtype)
    return pairs[:, :width], pairs[:, width:]


def _mix(query: np.ndarray, keys: np.ndarray, values: np.ndarray, heads: int) -> np.ndarray:
    """Return the values under one query's attention, head by head: `(width,)`."""
    size, mixed = len(query) // heads, np.zeros_like(query)
    for head in range(heads if len(keys) else 0):
        of_head = slice(head * size, (head + 1) * size)
        scores = np.array([key[of_head] @ query[of_head] for key in keys]) / np.sqrt(size)
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        for share, value in zip(shares, values, strict=True):
            mixed[of_head] += share * value[of_head]
    return mixed
