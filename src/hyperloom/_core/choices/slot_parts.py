"""Slot embeddings that say what a slot is: sums of parts, each looked up by what it tells."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hyperloom._core.choice import Choice
from hyperloom._core.errors import a_bool, call_it, message, positive_int, shown
from hyperloom._core.records import Lookup, Part, SlotTable


@dataclass(frozen=True, slots=True)
class Slot:
    """What there is to tell of a slot.

    Attributes:
        part: The part that its first number belongs to.
        block: How many slots of that part stand before it.
    """

    part: Part
    block: int


@dataclass(frozen=True, repr=False)
class SlotPart(Choice):
    """Base class: one thing that a slot's embedding tells."""

    @property
    def fixed(self) -> bool:
        """Whether it is computed from numbers; else there is a learned row for each value."""
        return False

    def value(self, slot: Slot) -> str:
        """What it tells of a slot, as text."""
        raise NotImplementedError

    def numbers(self, slot: Slot) -> tuple[float, ...]:
        """What it tells of a slot, as numbers."""
        return (float(self.value(slot)),)

    def lookup(self, slots: Sequence[Slot], width: int) -> Lookup:
        """Return the table of the values that `slots` have, and each slot's row in it."""
        values = [self.value(slot) for slot in slots]
        rows = {value: row for row, value in enumerate(dict.fromkeys(values))}
        numbers = []
        if self.fixed:
            numbers = [self.numbers(slots[values.index(value)]) for value in rows]
        name = type(self).__name__.removeprefix("Of").lower()
        table = SlotTable(name, tuple(rows), width, tuple(numbers))
        return Lookup(table, tuple(rows[value] for value in values))


@dataclass(frozen=True, repr=False)
class Numbered(SlotPart):
    """Base class: a thing that is a number.

    Args:
        sinusoidal: Fixed sines and cosines of the number (Vaswani et al., "Attention Is All You
            Need", 2017), so that one that was never seen has an embedding too. Default False: a
            learned row for each number.
    """

    sinusoidal: bool = False

    def __post_init__(self) -> None:
        a_bool(f"{type(self).__name__}(sinusoidal=)", self.sinusoidal)

    @property
    def fixed(self) -> bool:
        return self.sinusoidal


@dataclass(frozen=True, repr=False)
class OfLayer(Numbered):
    """Which layer: the number in the module's path, `5` in `layers.5.attention.query`.

    That is the first step of the path that is a number, else the first digits in it (`fc2`); 0
    where there are none.

    Args:
        sinusoidal: Fixed sines and cosines of the number, so that one that was never seen has an
            embedding too. Default False: a learned row for each number.
    """

    def value(self, slot: Slot) -> str:
        return number_and_type(slot.part.layer)[0]


@dataclass(frozen=True, repr=False)
class OfModule(SlotPart):
    """Which type of module: its path without the number that `OfLayer` tells. Learned.

    `layers.attention.query` for `layers.5.attention.query`.
    """

    def value(self, slot: Slot) -> str:
        return number_and_type(slot.part.layer)[1]


@dataclass(frozen=True, repr=False)
class OfRole(SlotPart):
    """What the tensor is to its module: its role (weight, bias, norm), and its name there. Learned.

    A factor of a tensor has a name of its own (`weight.u`).
    """

    def value(self, slot: Slot) -> str:
        return f"{slot.part.role.value}: {slot.part.label}"


@dataclass(frozen=True, repr=False)
class OfBlock(Numbered):
    """Which of the slots that its tensor takes: a chunk's or a tile's place in it, from 0.

    Args:
        sinusoidal: Fixed sines and cosines of the place. Default False: a learned row for each.
    """

    def value(self, slot: Slot) -> str:
        return str(slot.block)


@dataclass(frozen=True, repr=False)
class OfShape(SlotPart):
    """The tensor's shape, as sines and cosines of its sizes' logarithms: fixed.

    Sizes after the second, those of kernels, are multiplied.
    """

    @property
    def fixed(self) -> bool:
        return True

    def value(self, slot: Slot) -> str:
        return "x".join(map(str, slot.part.shape)) or "scalar"

    def numbers(self, slot: Slot) -> tuple[float, ...]:
        first, second, *rest = (*slot.part.shape, 1, 1)
        return tuple(4 * math.log2(max(1, size)) for size in (first, second, math.prod(rest)))


@dataclass(frozen=True, repr=False)
class SlotEmbedding(Choice):
    """Base class: how slots' embeddings are made of parts."""

    @property
    def width(self) -> int:
        """Width `w` of the embeddings."""
        raise NotImplementedError

    @property
    def summed(self) -> bool:
        """Whether parts are added up; else they stand side by side."""
        return True

    def lookups(self, slots: Sequence[Slot]) -> tuple[Lookup, ...]:
        """Return the parts' tables, and where each slot's rows are in them."""
        raise NotImplementedError


@dataclass(frozen=True, init=False, repr=False)
class SlotSum(SlotEmbedding):
    """A slot's embedding is a sum of parts that say what the slot is.

    Learned parts are tables with a row for each value that occurs, shared by all heads of the
    layout: what is learned of layer 5 holds for all its tensors. Rows have root mean square 1 at
    the start, and the sum of `K` parts is divided by `sqrt(K)`.

    Args:
        width: Width of the embeddings.
        *parts: `OfLayer()`, `OfModule()`, `OfRole()`, `OfBlock()`, `OfShape()`.

    Raises:
        ValueError: `width` below 1, no part, or one twice.
        TypeError: A part of another class.
    """

    size: int
    parts: tuple[SlotPart, ...]

    def __init__(self, width: int, *parts: SlotPart) -> None:
        object.__setattr__(self, "size", positive_int("SlotSum(width=)", width))
        object.__setattr__(self, "parts", tuple(parts))
        wanted = "OfLayer(), OfModule(), OfRole(), OfBlock() or OfShape(), each once"
        if not parts:
            raise ValueError(message("SlotSum(*parts)", "none", wanted))
        for part in parts:
            if not isinstance(part, SlotPart):
                way_out = call_it(part, SlotPart)
                raise TypeError(message("SlotSum(*parts)", shown(part), wanted, way_out))
        if len({type(part) for part in parts}) < len(parts):
            raise ValueError(message("SlotSum(*parts)", repr(parts), wanted))

    def __repr__(self) -> str:
        return f"SlotSum({', '.join(map(repr, (self.size, *self.parts)))})"

    @property
    def width(self) -> int:
        return self.size

    def lookups(self, slots: Sequence[Slot]) -> tuple[Lookup, ...]:
        return tuple(part.lookup(slots, self.size) for part in self.parts)


@dataclass(frozen=True, repr=False)
class PerModule(SlotEmbedding):
    """A slot's embedding is that of its layer beside that of its type of module, both learned.

    Charakorn et al., "Text-to-LoRA", ICML 2025: with the embedding of a description beside them it
    is what their trunk sees. Layer and module are those of `OfLayer` and `OfModule`.

    Args:
        layer: Width of the layers' embeddings. Default 32.
        module: Width of the embeddings of the types of module. Default 32.
        rank: Width of the embeddings of ranks, or of other blocks of a tensor, as `OfBlock` tells
            them: for `Ranks()`, as in Charakorn et al., "Doc-to-LoRA", 2026. Default 0: none.

    Raises:
        ValueError: A width of layers or modules below 1, or of ranks below 0.
    """

    layer: int = 32
    module: int = 32
    rank: int = 0

    def __post_init__(self) -> None:
        positive_int("PerModule(layer=)", self.layer)
        positive_int("PerModule(module=)", self.module)
        positive_int("PerModule(rank=)", self.rank, least=0)

    @property
    def width(self) -> int:
        return self.layer + self.module + self.rank

    @property
    def summed(self) -> bool:
        return False

    def lookups(self, slots: Sequence[Slot]) -> tuple[Lookup, ...]:
        told = [(OfLayer(), self.layer), (OfModule(), self.module), (OfBlock(), self.rank)]
        return tuple(part.lookup(slots, width) for part, width in told if width)


def number_and_type(path: str) -> tuple[str, str]:
    """Return the number of a module's path and the path without it; see `OfLayer`."""
    steps = path.split(".")
    for i, step in enumerate(steps):
        if step.isdecimal():
            return step, ".".join(steps[:i] + steps[i + 1 :])
    found = re.search(r"\d+", path)
    if found is None:
        return "0", path
    return found.group(), path[: found.start()] + path[found.end() :]


def embedding_width(argument: str, embedding: object) -> int:
    """Return the width of a layout's `embedding`, an int or a `SlotEmbedding`; raise otherwise."""
    if isinstance(embedding, SlotEmbedding):
        return embedding.width
    if isinstance(embedding, int) and not isinstance(embedding, bool):
        return positive_int(argument, embedding)
    wanted = "an int of at least 1, SlotSum(width, ...) or PerModule()"
    raise TypeError(message(argument, shown(embedding), wanted, call_it(embedding, SlotEmbedding)))


def refuse_by_id(layout: str, embedding: object, per_condition: bool) -> None:
    """Raise for embeddings of each id's own that are to say what slots are."""
    if per_condition and isinstance(embedding, SlotEmbedding):
        got, wanted = f"True with embedding={embedding}", "embedding=width, an int"
        raise ValueError(message(f"{layout}(per_condition=)", got, wanted))
