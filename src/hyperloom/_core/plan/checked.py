"""What layouts and forms return, checked once where a plan is compiled: users may write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from hyperloom._core.choice import Choice, of_library
from hyperloom._core.choices.forms import Form
from hyperloom._core.choices.layouts import Layout
from hyperloom._core.choices.structure import Structure
from hyperloom._core.errors import finite_float, message, shown
from hyperloom._core.pieces import Piece, Placement
from hyperloom._core.records import Bank, Head, Part, Source, Start
from hyperloom._core.target.spec import TensorSpec


def check_placements(
    layout: Layout, parts: Sequence[Part], placements: Any, first_head: int
) -> None:
    """Raise unless a layout has placed every part, where its head gives numbers.

    Raises:
        TypeError: It returns something else than placements.
        ValueError: A part that is placed nowhere, twice, outside or in another shape.
    """
    listed = isinstance(placements, (list, tuple))
    if not listed or not all(isinstance(one, Placement) for one in placements):
        raise TypeError(_layout(layout, f"returns {shown(placements)}", "a list of Placement"))
    given, done = set(parts), set[Part]()
    for index, placement in enumerate(placements, first_head):
        head = placement.head
        _check_head(layout, head)
        _check_segments(layout, head)
        for part, piece in placement.pieces:
            if part in done or part not in given:
                why = "a second time" if part in done else "that it was not given"
                got = f"places {part.label!r} of {part.tensor!r} {why}"
                raise ValueError(_layout(layout, got, "each of its parts once"))
            done.add(part)
            _check_piece(layout, head, index, part, piece)
    for part in parts:
        if part not in done:
            got = f"places {part.label!r} of {part.tensor!r} nowhere"
            raise ValueError(_layout(layout, got, "each of its parts once"))


def check_fields(argument: str, choice: Choice) -> None:
    """Raise unless a choice of the user's own can be compared, and written to a file.

    Raises:
        TypeError: A field that holds a list, an array, or anything else that cannot be hashed.
    """
    try:
        hash(choice)
    except TypeError as error:
        held = {f.name: getattr(choice, f.name) for f in fields(choice)}  # type: ignore[arg-type]
        name = next((n for n, value in held.items() if not _hashable(value)), None)
        if name is None:
            raise
        got = f"a {type(choice).__name__} whose {name} is {shown(held[name])}"
        wanted = "fields of numbers, strings, tuples and choices"
        way_out = "Give a tuple." if isinstance(held[name], list) else ""
        raise TypeError(message(argument, got, wanted, way_out)) from error


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _check_head(layout: Layout, head: Head) -> None:
    """Raise unless a head's fields are of the right kind, and its runs differ in what they see."""
    least = {"num_slots": 1, "slot_size": 0, "num_used": 0, "embedding": 0}
    for name, smallest in least.items():
        value = getattr(head, name)
        if type(value) is not int or value < smallest:
            got = f"gives {head.name!r} {name}={shown(value)}"
            raise ValueError(_layout(layout, got, f"an int of at least {smallest}"))
    if not isinstance(head.source, Source):
        got, wanted = f"gives {head.name!r} source={shown(head.source)}", "a Source"
        raise TypeError(_layout(layout, got, f"{wanted}: {', '.join(map(str, Source))}"))
    if head.needs_features and head.num_slots > 1 and not head.embedding:
        got = f"runs {head.name!r} {head.num_slots} times without embeddings"
        wanted = "embeddings of at least 1 number: nothing else that is learned tells runs apart"
        raise ValueError(_layout(layout, got, wanted))


def _check_piece(layout: Layout, head: Head, index: int, part: Part, piece: Piece) -> None:
    name = f"{part.label!r} of {part.tensor!r}"
    if piece.shape != part.shape:
        got, wanted = f"places {name} in shape {piece.shape}", f"its shape {part.shape}"
        raise ValueError(_layout(layout, got, wanted))
    if piece.head != index:
        got = f"places {name} in head {piece.head}"
        raise ValueError(_layout(layout, got, f"head {index}: they count on from first_head"))
    if piece.start < 0 or piece.start + piece.span > head.num_used:
        got = f"places {name} at {piece.start} .. {piece.start + piece.span}"
        raise ValueError(
            _layout(layout, got, f"numbers in 0 .. {head.num_used}, all its head uses")
        )


def _check_segments(layout: Layout, head: Head) -> None:
    """Raise unless it is said how each row of a head starts."""
    if head.num_used > head.num_slots * head.slot_size:
        got = f"gives {head.name!r} {head.num_used} numbers to use"
        wanted = f"at most {head.num_slots} x {head.slot_size}"
        raise ValueError(_layout(layout, got, wanted))
    row = 0
    for segment in head.segments:
        if segment.start != row or segment.stop <= row:
            break
        row = segment.stop
    if row != head.slot_size and not head.given:
        got = f"says how rows 0 .. {row} of {head.name!r} start"
        raise ValueError(_layout(layout, got, f"segments, in order, for 0 .. {head.slot_size}"))


def _layout(layout: Layout, does: str, wanted: str) -> str:
    return message("layout", f"{layout}, which {does}", wanted)


def check_form(form: Form, tensor: TensorSpec, parts: Any, bank: Bank | None) -> None:
    """Raise unless a form says how a tensor follows from its parts.

    A form of the user's own is tried: its definition makes a tensor of the right shape, and of a
    batch what it makes of one condition after the other.

    Raises:
        TypeError: Something else than parts, or than a structure.
        ValueError: A tensor of another shape, or other numbers in a batch.
    """
    if not isinstance(parts, tuple) or not parts or not all(isinstance(p, Part) for p in parts):
        got = f"{form}, whose parts() returns {shown(parts)} for {tensor.name!r}"
        raise TypeError(message("form", got, "a tuple of Part"))
    for part in parts:
        _check_part(form, part)
    if bank is not None:
        _check_bank(form, tensor, bank)
    if len(set(parts)) != len(parts) or {part.tensor for part in parts} != {tensor.name}:
        got = f"{form}, whose parts of {tensor.name!r} are {', '.join(p.label for p in parts)}"
        raise ValueError(message("form", got, "parts of that tensor, with names of their own"))
    structure = form.structure(tensor)
    if not isinstance(structure, Structure):
        got = f"{form}, whose structure() returns {shown(structure)} for {tensor.name!r}"
        raise TypeError(message("form", got, "a structure (Plain, Shifted, Scaled, ...)"))
    if not of_library(type(form)):
        _try(form, tensor, structure, parts, bank)


def _check_part(form: Form, part: Part) -> None:
    """Raise unless a part has sizes, and a start."""
    named = f"{form}, whose part {part.label!r} of {part.tensor!r}"
    if not _sizes(part.shape):
        got = f"{named} has the shape {shown(part.shape)}"
        raise TypeError(message("form", got, "a tuple of ints"))
    if not isinstance(part.start, Start):
        got = f"{named} starts as {shown(part.start)}"
        raise TypeError(message("form", got, "a Start, such as ZERO, or the one that parts() got"))
    for name in ("mean", "std"):
        finite_float(f"form: {named} has Start({name}=)", getattr(part.start, name))


def _check_bank(form: Form, tensor: TensorSpec, bank: Any) -> None:
    """Raise unless a bank is one."""
    if not isinstance(bank, Bank) or not _sizes(bank.shape):
        got = f"{form}, whose bank() returns {shown(bank)} for {tensor.name!r}"
        raise TypeError(message("form", got, f"a Bank of shape (num, *{tensor.shape}), or None"))
    finite_float(f"form: {form}, whose bank() returns Bank(std=)", bank.std, 0.0)


def _sizes(shape: object) -> bool:
    return isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)


def _try(
    form: Form, tensor: TensorSpec, structure: Structure, parts: tuple[Part, ...], bank: Bank | None
) -> None:
    kind = type(structure).__name__
    shapes, sizes = tuple(part.shape for part in parts), None if bank is None else bank.shape
    unmet = structure.unmet(shapes, form.has_base, sizes, tensor.shape)
    if unmet:
        got = f"{form}, which makes {tensor.name!r} {tensor.shape} as {kind} of "
        got += f"{' and '.join(map(str, shapes))}, {'with' if form.has_base else 'without'} a base"
        got += "" if bank is None else f", with a bank {sizes}"
        raise ValueError(message("form", got, unmet))
    draws = np.random.RandomState(0)
    arrays = [draws.standard_normal((2, *part.shape)) + structure.plus for part in parts]
    base = draws.standard_normal(tensor.shape) if form.has_base else None
    held = None if bank is None else draws.standard_normal(bank.shape)

    def dense(index: Any) -> Any:
        return structure.dense(tuple(a[index] for a in arrays), base, held, tensor.shape)

    try:
        both, single = np.asarray(dense(slice(None))), np.asarray(dense(0))
    except Exception as error:  # whatever the user's function raises is told
        got = f"{form}, whose {kind} of {tensor.name!r} fails: {type(error).__name__}: {error}"
        few = f"{len(parts)} part{'s' if len(parts) > 1 else ''}"
        wanted = f"a function of (parts, base) that takes {few} and arrays of every framework"
        way_out = "It is tried on NumPy arrays: use operators, abs, .reshape and .sum."
        raise TypeError(message("form", got, wanted, way_out)) from error
    if single.shape != tensor.shape:
        got = f"{form}, which makes {single.shape} of the parts of {tensor.name!r}"
        raise ValueError(message("form", got, f"its shape {tensor.shape}"))
    if both.shape != (2, *tensor.shape) or not np.allclose(both[0], single, equal_nan=True):
        got = f"{form}, which makes {both.shape} of two conditions' parts of {tensor.name!r}"
        wanted = "for each what it makes of that one alone"
        way_out = "Parts come as (*batch, *part shape): count axes from the end."
        raise ValueError(message("form", got, wanted, way_out))
