"""Choices with trunks over slots and conditions that are sets, for the tests of both backends."""

from __future__ import annotations

from typing import Any

import numpy as np

import hyperloom as hl

NUM = 3

# Name -> choices, and what the condition's raw value consists of.
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "ids": (
        {"condition": hl.Embedding(NUM, 4), "trunk": hl.Transformer(6, 2, 2)},
        "ids",
    ),
    "ids, own embeddings": (
        {
            "condition": hl.Embedding(NUM, 4),
            "trunk": hl.Transformer(6, 1, 3, 5, "relu", "post"),
            "layout": hl.Chunked(7, 3, per_condition=True),
        },
        "ids",
    ),
    "context": (
        {
            "condition": hl.Context(3, std=0.5),
            "trunk": hl.Transformer(6, 2, 2),
            "layout": hl.Grouped(3, hl.Tiles(2)),
        },
        "context",
    ),
    "blocks of the largest size": (
        {
            "condition": hl.Context(3, std=0.5),
            "trunk": hl.Transformer(6, 1, 2),
            "layout": hl.Grouped(hl.SlotSum(3, hl.OfLayer(), hl.OfBlock()), hl.Largest(5)),
        },
        "context",
    ),
    "vector and context": (
        {
            "condition": hl.Concat(hl.Vector(2), hl.Context(3)),
            "trunk": hl.Transformer(4, 2, 1, norm="post"),
            "layout": {"*[02].*": hl.Chunked(9, 3), "*": hl.Full()},
        },
        ("vector", "context"),
    ),
    "sums that say what slots are": (
        {
            "condition": hl.Embedding(NUM, 4),
            "trunk": hl.Transformer(6, 1, 2),
            "layout": hl.Chunked(7, hl.SlotSum(5, hl.OfLayer(True), hl.OfRole(), hl.OfBlock())),
        },
        "ids",
    ),
    "several tables": (
        {
            "condition": hl.Concat(hl.Vector(2), hl.Context(3)),
            "trunk": hl.Transformer(4, 1, 1),
            "layout": {
                "*0.*": hl.Grouped(hl.SlotSum(7, hl.OfLayer(), hl.OfShape(), hl.OfRole())),
                "*": hl.Grouped(hl.PerModule(4, 3), hl.Modules()),
            },
        },
        ("vector", "context"),
    ),
    "tokens that read a context": (
        {
            "condition": hl.Concat(hl.Vector(2), hl.Context(3)),
            "trunk": hl.Perceiver(6, 4, 2, 2),
        },
        ("vector", "context"),
    ),
    "tokens that read the slots": (
        {
            "condition": hl.Embedding(NUM, 4),
            "trunk": hl.Perceiver(6, 3, 1, 3, 5, "relu"),
            "layout": {"*[02].*": hl.Chunked(9, 3), "*": hl.Full()},
        },
        "ids",
    ),
    "mean of a set": (
        {"condition": hl.MeanPool(3, std=2.0), "trunk": hl.MLP(5), "layout": hl.Chunked(9, 3)},
        "context",
    ),
    "attention over a set": (
        {
            "condition": hl.Concat(hl.AttentionPool(3, 4, 2), hl.Vector(2)),
            "trunk": hl.MLP(5),
            "layout": hl.Chunked(9, 3),
        },
        ("context", "vector"),
    ),
}
for choices, _ in CASES.values():
    choices.setdefault("layout", hl.Chunked(9, 3))


def raw(kind: Any, masked: bool, seed: int = 0) -> Any:
    """Return a batch of `NUM` raw values as NumPy arrays; of the last set, no element is real."""
    draws = np.random.RandomState(seed)
    if isinstance(kind, tuple):
        return tuple(raw(part, masked, seed + i) for i, part in enumerate(kind))
    if kind == "ids":
        return np.arange(NUM)[::-1].copy()
    if kind == "vector":
        return draws.standard_normal((NUM, 2))
    elements, mask = draws.standard_normal((NUM, 5, 3)), draws.uniform(size=(NUM, 5)) > 0.4
    mask[-1] = False
    return (np.where(mask[..., None], elements, np.nan), mask) if masked else elements
