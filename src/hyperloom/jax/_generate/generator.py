"""`Generator`: a plan with the modules that execute it; from a condition to tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import jax.numpy as jnp
from flax import nnx
from jax import Array

from hyperloom._core.backend.factors import Factors, join_factors
from hyperloom._core.backend.views import need_carry
from hyperloom._core.errors import positive_int
from hyperloom._core.plan.plan import Plan
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.numbers import assemble, cut, raw_numbers, slot_features
from hyperloom.jax._target.arrays import ranks_promoted
from hyperloom.jax._target.streams import draw
from hyperloom.jax._target.variables import Fixed, arrays_of


@dataclass(frozen=True, eq=False)
class Generator:
    """What a hypernetwork generates with.

    The modules belong to the hypernetwork, under these names; a generator only refers to them.

    Attributes:
        plan: The plan.
        condition: The condition, built.
        trunks: A trunk for each width of its input.
        heads: The heads by name.
        scales: `(num_pieces, 2)`, scale and shift of each piece; `None` if no head has any.
        bases: The tensors that forms with a base change, by name.
        banks: The plan's banks.
        native: The target's own values that rows of later ids start from, by name.
        dropout: The stream that dropout in the trunk draws from; `None` without dropout.
    """

    plan: Plan
    condition: Any
    trunks: Any
    heads: Any
    scales: Fixed | None
    bases: Any
    banks: Any
    native: Any
    dropout: Any

    @classmethod
    def of(cls, owner: Any) -> Self:
        """Return the generator whose parts are attributes of `owner`."""
        return cls(**{field.name: getattr(owner, field.name) for field in fields(cls)})

    def modules(self) -> dict[str, Any]:
        """Return everything but the plan, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "plan"}

    @ranks_promoted
    def encode(self, value: Any, rngs: nnx.Rngs | None, carry: Any = None) -> Encoded:
        """Return the vector of a raw condition, with ids and the next state where there are any."""
        if carry is None:
            return self.condition(value, rngs)
        need_carry(self.plan)
        return self.condition(value, rngs, carry)

    def initial_carry(self, batch: int | tuple[int, ...]) -> Any:
        """Return the state that conditions start from; see `HyperNetwork.initial_carry`."""
        need_carry(self.plan)
        sizes = batch if isinstance(batch, tuple) else (batch,)
        for size in sizes:
            positive_int("batch", size, 0)
        return self.condition.initial_carry(sizes)

    def trunk_key(self, rngs: nnx.Rngs | None) -> Array | None:
        """Return a key for dropout in the trunk, where there is any and it is on."""
        if self.dropout is None or all(la.deterministic for t in self.trunks for la in t.layers):
            return None
        return draw(self.dropout, "dropout", rngs)

    @ranks_promoted
    def features(self, encoded: Encoded, key: Array | None = None) -> dict[int, Array]:
        """Run every trunk: head index -> `(*batch, C, F)`."""
        return slot_features(self.plan, self.trunks, self.heads, encoded, key)

    @ranks_promoted
    def tensors(
        self,
        encoded: Encoded,
        key: Array | None = None,
        features: Mapping[int, Array] | None = None,
    ) -> dict[str, Array]:
        """Return every generated tensor, `{name: (*batch, *shape)}`.

        Args:
            encoded: The conditions.
            key: For dropout in the trunk.
            features: What `features` returned for them, if that is known already.
        """
        features = self.features(encoded, key) if features is None else features
        raw = raw_numbers(self.plan, self.heads, encoded, features)
        dtypes = {t.name: jnp.dtype(t.dtype) for t in self.plan.spec}
        return assemble(self.plan, raw, *self.numbers(), dtypes)

    @ranks_promoted
    def factors(self, encoded: Encoded, key: Array | None = None) -> dict[str, Factors]:
        """Return the factors of every tensor that has any; arguments as of `tensors`."""
        raw = raw_numbers(self.plan, self.heads, encoded, self.features(encoded, key))
        scales, _, banks = self.numbers()
        return join_factors(self.plan, cut(self.plan, raw, scales), banks)

    def numbers(self) -> tuple[Array | None, dict[str, Array], list[Array]]:
        """Return scales, bases and banks as arrays."""
        scales = None if self.scales is None else self.scales[...]
        return scales, arrays_of(self.bases), [bank[...] for bank in self.banks]
