"""One call: what it is given, and what of that each condition has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from hyperloom._core.errors import a_bool
from hyperloom.jax._run.checks import check_state
from hyperloom.jax._run.pairing import Dims, PairedInputs, flat_batch
from hyperloom.jax._run.runner import Runner
from hyperloom.jax._target.adaptor import Method
from hyperloom.jax._target.arrays import estimated


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


@dataclass(frozen=True)
class Asked:
    """What a call is given beside the condition.

    Attributes:
        inputs: The target's positional inputs.
        in_axes: As in `HyperNetwork.__call__`.
        kwargs: Its keyword inputs.
        streams: Random streams of this call, if it is given any.
        state: The target's state, `{name: (*batch, *shape)}`, as far as it is given.
        mutable: Whether the state after the call is wanted.
        method: What of the target is called; `None` for the target itself.
        rows: The condition of each row, where the arrays have rows in front.
    """

    inputs: tuple[Any, ...]
    in_axes: Dims
    kwargs: dict[str, Any]
    streams: nnx.Rngs | None
    state: Mapping[str, Array] | None = None
    mutable: bool = False
    method: Method = None
    rows: Any = None

    def of(self, runner: Runner, batch: tuple[int, ...]) -> Call:
        """Return the call for a batch of conditions.

        Raises:
            ValueError: Inputs or state that do not pair with the conditions.
        """
        inputs = PairedInputs.of(batch, self.inputs, self.in_axes, self.kwargs)
        a_bool("mutable", self.mutable)
        state = check_state(runner.target.state(), self.state, batch, runner.memory.anew)
        call = Call(batch, inputs, mutable=self.mutable, method=self.method)
        keys = runner.target.keys(self.streams, self.method)
        keys = split_keys(keys, call, runner.execution.randomness)
        flat = jax.tree.map(lambda value: flat_batch(value, batch), state)
        return call.with_slices((inputs.paired, keys, flat), batch)


def split_keys(keys: Mapping[str, Array], call: Call, randomness: str) -> dict[str, Array]:
    """Return keys for each condition, its own or the same for all."""
    if not call.batch:
        return dict(keys)
    if randomness == "same":
        return {name: jnp.broadcast_to(key, (call.num, *key.shape)) for name, key in keys.items()}
    return {name: jax.random.split(key, call.num) for name, key in keys.items()}
