"""Layouts: which numbers become which weights. One file per kind."""

from hyperloom._core.choices.layouts.base import Layout
from hyperloom._core.choices.layouts.chunked import Chunked
from hyperloom._core.choices.layouts.direct import Direct, Given
from hyperloom._core.choices.layouts.grouped import (
    Grouped,
    Largest,
    Layers,
    Modules,
    Ranks,
    Tensors,
    Tiles,
)
from hyperloom._core.choices.layouts.rows import Full, PerCondition, Shared
from hyperloom._core.pieces import Piece, Placement
from hyperloom._core.records import Head, Segment, Source, slot_signs

__all__ = [
    "Chunked",
    "Direct",
    "Full",
    "Given",
    "Grouped",
    "Head",
    "Largest",
    "Layers",
    "Layout",
    "Modules",
    "PerCondition",
    "Piece",
    "Placement",
    "Ranks",
    "Segment",
    "Shared",
    "Source",
    "Tensors",
    "Tiles",
    "slot_signs",
]
