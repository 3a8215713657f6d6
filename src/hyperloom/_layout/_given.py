"""The features are the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hyperloom._form import Part
from hyperloom._layout._base import Layout, Placement, Source
from hyperloom._layout._chunked import refuse_native
from hyperloom._layout._rows import own_rows


@dataclass(frozen=True, repr=False)
class Given(Layout):
    """No head: the trunk's features, or the condition's vector, are the tensors' numbers.

    For a generator of the user's own that returns all numbers in one flat vector, tensor after
    tensor in the target's order, each in row-major order: as `condition`, or as `trunk`. With
    `condition=Vector(P)` the hypernetwork is the target as a function of a flat vector.

    The vector has exactly as many numbers as the tensors have. How the generated network starts
    out is up to the generator: `init` has no say in it.

    Raises:
        ValueError: A trunk (or condition) of another width, or an init that asks for the target's
            own values (`BiasHyperInit`).
    """

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        refuse_native(parts, self)
        placements = own_rows("given", Source.GIVEN, parts, first_head)
        return [replace(p, head=replace(p.head, segments=())) for p in placements]
