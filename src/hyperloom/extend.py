"""What a layout or a form of one's own is written with: records, structures, helpers.

A layout places parts in heads, a form says of which parts a tensor is made and how it follows from
them. Both are frozen dataclasses without a framework: written once, they run in every backend, in
the NumPy reference, in drawings and in checkpoints.
"""

from hyperloom._core.choices.forms.base import ZERO, Form, OnBase, part_of
from hyperloom._core.choices.inits import Init
from hyperloom._core.choices.layouts.base import Layout, in_slots, whole_piece
from hyperloom._core.choices.layouts.rows import own_rows
from hyperloom._core.choices.structure import (
    Directed,
    Formed,
    Plain,
    Product,
    Scaled,
    Shifted,
    Structure,
    Sum,
)
from hyperloom._core.pieces import Piece, Placement
from hyperloom._core.records import Bank, Head, Part, Role, Segment, Source, Start
from hyperloom._core.reference.executor import generate as reference
from hyperloom._core.target.spec import TensorSpec

__all__ = [
    "ZERO",
    "Bank",
    "Directed",
    "Form",
    "Formed",
    "Head",
    "Init",
    "Layout",
    "OnBase",
    "Part",
    "Piece",
    "Placement",
    "Plain",
    "Product",
    "Role",
    "Scaled",
    "Segment",
    "Shifted",
    "Source",
    "Start",
    "Structure",
    "Sum",
    "TensorSpec",
    "in_slots",
    "own_rows",
    "part_of",
    "reference",
    "whole_piece",
]
