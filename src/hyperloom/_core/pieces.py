"""Pieces: where a part stands among the numbers of a head, and how it is cut out of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperloom._core.records import Head, Part


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a part stands in its head's output, read as one flat row of numbers.

    A part is `count` blocks of shape `tile`, the first at `start`, each `stride` after the one
    before, laid on a grid. A part in one piece has one block of its own shape. A part that is
    smaller than its blocks together is their first numbers along each axis: the last are cut.

    Attributes:
        head: Index of the head in the plan.
        start: Position of its first number.
        tile: Shape of one block.
        grid: Number of blocks along each axis; `tile * grid` is the part's shape, or is cut to it.
        stride: Distance between blocks.
        scale: Factor on the head's numbers that initialisation asks for.
        shift: Number added after it.
        cut: Shape of the part, where its last blocks are cut; empty where none is.
    """

    head: int
    start: int
    tile: tuple[int, ...]
    grid: tuple[int, ...]
    stride: int = 0
    scale: float = 1.0
    shift: float = 0.0
    cut: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Number of blocks."""
        return math.prod(self.grid)

    @property
    def numel(self) -> int:
        """Numbers in the part."""
        return math.prod(self.shape)

    @property
    def span(self) -> int:
        """Numbers of the head's output that it takes: the part's own, and those that are cut."""
        return self.count * math.prod(self.tile)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the part."""
        return self.cut or tuple(t * g for t, g in zip(self.tile, self.grid, strict=True))

    @property
    def contiguous(self) -> bool:
        """Whether the part is a range of the head's output, in order."""
        return self.count == 1 and not self.cut

    def read(self, raw: Any, permute: Callable[[Any, tuple[int, ...]], Any]) -> Any:
        """Cut the part out of a head's output: views only, any framework's arrays.

        Args:
            raw: `(*batch, num_slots, slot_size)`.
            permute: The framework's transposition, `permute(array, axes)`.

        Returns:
            `(*batch, *shape)`, before scale and shift.
        """
        flat = raw.reshape((*raw.shape[:-2], raw.shape[-2] * raw.shape[-1]))
        return self.arrange(flat[..., self.start : self.start + self.span], permute)

    def arrange(self, numbers: Any, permute: Callable[[Any, tuple[int, ...]], Any]) -> Any:
        """Bring the numbers `(*batch, span)` of its blocks into the shape `(*batch, *shape)`.

        The blocks of a part stand one after the other, so its numbers are one range of the
        head's output.
        """
        batch = tuple(numbers.shape[:-1])
        # Shapes as tuples: a scalar of one condition is reshaped to ().
        if self.count == 1:
            return self._kept(numbers.reshape((*batch, *self.tile)))
        b, n = len(batch), len(self.tile)
        axes = [axis for i in range(n) for axis in (b + i, b + n + i)]
        blocks = numbers.reshape((*batch, *self.grid, *self.tile))
        whole = (t * g for t, g in zip(self.tile, self.grid, strict=True))
        return self._kept(permute(blocks, (*range(b), *axes)).reshape((*batch, *whole)))

    def kept_rows(self, rows: Any) -> Any:
        """Return those rows `(numel, ...)` of one block's `(span, ...)` that the part has."""
        if not self.cut:
            return rows
        more = tuple(rows.shape[1:])
        kept = rows.reshape((*self.tile, *more))[tuple(slice(size) for size in self.cut)]
        return kept.reshape((self.numel, *more))

    def _kept(self, blocks: Any) -> Any:
        """Cut blocks `(*batch, *tile * grid)` to the part's shape."""
        return blocks[(..., *(slice(size) for size in self.cut))] if self.cut else blocks

    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges (first, stop) of the head's output that the part is made of."""
        if not self.cut:
            return [(self.start, self.start + self.span)]
        places = np.sort(self.indices().ravel())
        (gaps,) = np.nonzero(np.diff(places) != 1)
        firsts, lasts = [0, *(gaps + 1)], [*gaps, len(places) - 1]
        return [(int(places[i]), int(places[j]) + 1) for i, j in zip(firsts, lasts, strict=True)]

    def kept_of_blocks(self) -> list[int]:
        """Return how many numbers the part has of each of its blocks, in their order."""
        along = [
            [min(tile, size - tile * i) for i in range(grid)]
            for size, tile, grid in zip(self.shape, self.tile, self.grid, strict=True)
        ]
        return [math.prod(sizes) for sizes in itertools.product(*along)]

    def indices(self) -> np.ndarray:
        """Return, for every number of the part, its position: an int array of its shape.

        The same map as `read`, as plain arithmetic; the NumPy oracle uses it.
        """
        block = np.zeros(self.shape, dtype=np.int64)
        inside = np.zeros(self.shape, dtype=np.int64)
        axes = np.indices(self.shape)
        for i, tile, grid in zip(axes, self.tile, self.grid, strict=True):
            block = block * grid + i // tile
            inside = inside * tile + i % tile
        return self.start + block * self.stride + inside


@dataclass(frozen=True, slots=True)
class Placement:
    """What a layout compiles to: a head, and the piece of each part in it."""

    head: Head
    pieces: tuple[tuple[Part, Piece], ...]
