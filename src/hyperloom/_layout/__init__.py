"""Layouts: which numbers become which weights. One file per kind."""

from hyperloom._layout._base import Head, Layout, Piece, Placement, Segment, Source, slot_signs
from hyperloom._layout._chunked import Chunked
from hyperloom._layout._direct import Direct
from hyperloom._layout._given import Given
from hyperloom._layout._grouped import Grouped, Layers, Tensors, Tiles
from hyperloom._layout._rows import Full, PerCondition, Shared

__all__ = [
    "Chunked",
    "Direct",
    "Full",
    "Given",
    "Grouped",
    "Head",
    "Layers",
    "Layout",
    "PerCondition",
    "Piece",
    "Placement",
    "Segment",
    "Shared",
    "Source",
    "Tensors",
    "Tiles",
    "slot_signs",
]
