"""One call: its inputs, and what else each condition brings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jax import Array

from hyperloom.jax._arrays import estimated
from hyperloom.jax._run.pairing import PairedInputs
from hyperloom.jax._target.adaptor import Method


@dataclass(frozen=True, eq=False)
class Call:
    """One call of the target.

    Attributes:
        batch: Dimensions of the batch of conditions; `()` for one condition.
        inputs: Its inputs.
        keys: For each random stream of the target a key, `(B,)`; for one condition, `()`.
        state: The target's state, `{name: (B, *shape)}`; what it does not name is its own.
        mutable: Whether the state after the call is wanted.
        method: What of the target is called; `None` for the target itself.
    """

    batch: tuple[int, ...]
    inputs: PairedInputs
    keys: Mapping[str, Array] = field(default_factory=dict[str, Array])
    state: Mapping[str, Array] = field(default_factory=dict[str, Array])
    mutable: bool = False
    method: Method = None

    @property
    def num(self) -> int:
        """Number of conditions."""
        return math.prod(self.batch)

    def slices(self) -> tuple[list[Array], dict[str, Array], dict[str, Array]]:
        """Return all that has a slice for each condition, as a tree of arrays `(B, ...)`."""
        return self.inputs.paired, dict(self.keys), dict(self.state)

    def with_slices(self, slices: Any, batch: tuple[int, ...]) -> Call:
        """Return the call for other conditions, with what `slices` returned for those."""
        paired, keys, state = slices
        inputs = replace(self.inputs, paired=paired)
        return replace(self, batch=batch, inputs=inputs, keys=keys, state=state)

    def kind(self) -> tuple[Any, ...]:
        """Return what tells calls apart that a target may have to be run for in other ways."""
        paired = tuple((a.shape[bool(self.batch) :], str(a.dtype)) for a in self.inputs.paired)
        return paired, tuple((a.shape, str(a.dtype)) for a in self.inputs.shared)

    def rows(self) -> int:
        """Guess how many rows each condition has, from the first paired input `(B, *n, I)`."""
        for array in self.inputs.paired:
            return max(1, math.prod(map(estimated, array.shape[1:-1])))
        return 1
