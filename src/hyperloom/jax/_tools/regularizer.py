"""The output regulariser of continual learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.backend import protocol
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.regularizer import (
    Rows,
    check_batch,
    check_fixed,
    check_weights,
    given_weights,
    gram_is_cheaper,
    linear_pieces,
    rows_that_count,
    weight_of,
)
from hyperloom._core.choices.conditions import Concat, Condition, Embedding
from hyperloom._core.errors import finite_float, message, positive_int
from hyperloom.jax._generate.conditions import as_ids
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.heads import LinearHead
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._run.checks import as_rngs
from hyperloom.jax._target.adaptor import Box
from hyperloom.jax._target.arrays import ARRAY, ranks_promoted
from hyperloom.jax._target.variables import Fixed, is_traced
from hyperloom.jax._tools.given import a_hypernetwork


@completes(protocol.OutputRegularizer)
class OutputRegularizer(nnx.Module):
    """It is an NNX module whose variables are what it remembers: pass it to a jitted step as an
    argument, as any module, so that the step sees what is remembered later.
    """

    def __init__(
        self,
        strength: float,
        *,
        subset: int | None = None,
        weights: Mapping[str, float | Array] | None = None,
    ) -> None:
        self.strength = finite_float("strength", strength, least=0.0)
        self.subset = None if subset is None else positive_int("subset", subset)
        self.weights = Box(given_weights(weights, ARRAY))
        self.num_conditions = 0
        self.conditions = nnx.data(Fixed(None))
        self.targets = nnx.Dict({})
        self.heads = nnx.Dict({})

    @ranks_promoted
    def remember(self, hnet: HyperNetwork, conditions: Any) -> None:
        a_hypernetwork("hnet", hnet)
        if isinstance(conditions, (range, list, tuple)) and len(conditions) == 0:
            self.conditions = nnx.data(Fixed(None))
            self.targets, self.heads, self.num_conditions = nnx.Dict({}), nnx.Dict({}), 0
            return
        check_weights(self.weights.held, hnet.plan, ARRAY)
        check_fixed(hnet.plan.condition, conditions, ARRAY)
        raw = _as_arrays(hnet.plan.condition, conditions)
        generator = hnet.generator
        encoded = generator.encode(raw, None)
        check_batch(encoded.batch)
        num, features = encoded.batch[0], generator.features(encoded, generator.trunk_key(None))
        weights = {e.tensor: weight_of(self.weights.held, e.tensor) for e in hnet.plan.entries}
        asked = num if self.subset is None else min(self.subset, num)
        heads = remembered_heads(hnet, features, asked, weights)
        rest = made_elsewhere(hnet, heads)
        tensors = generator.tensors(encoded, features=features) if rest else {}
        self.conditions, self.heads = nnx.data(Fixed(raw)), nnx.Dict(heads)
        self.targets = nnx.Dict({n: Fixed(jax.lax.stop_gradient(tensors[n])) for n in rest})
        self.num_conditions = num

    @ranks_promoted
    def __call__(self, hnet: HyperNetwork, *, rngs: Any = None) -> Array:
        """With `subset`, the conditions of a call are drawn from `rngs`.

        Args:
            hnet: The hypernetwork.
            rngs: With `subset` what to draw it from: a key or an `nnx.Rngs`.

        Raises:
            ValueError: `subset` without `rngs`.
        """
        a_hypernetwork("hnet", hnet)
        streams = as_rngs(rngs)
        if not self.num_conditions:
            return jnp.zeros(())
        generator, total = hnet.generator, jnp.zeros(())
        encoded, index = self._chosen(generator.encode(self.conditions.get_value(), None), streams)
        features = generator.features(encoded, generator.trunk_key(None))
        for i, head in enumerate(hnet.plan.heads):
            if head.name in self.heads:
                memory: HeadMemory = self.heads[head.name]
                total += memory.distance(hnet.heads[head.name], features[i], index)
        tensors = generator.tensors(encoded, features=features) if self.targets else {}
        for name in self.targets:
            old = self.targets[name][...]
            change = tensors[name] - (old if index is None else old[index])
            total += jnp.sum(jnp.square(change) * weight_of(self.weights.held, name))
        return self.strength / encoded.batch[0] * total

    def _chosen(self, encoded: Encoded, streams: nnx.Rngs | None) -> tuple[Encoded, Array | None]:
        """Return the conditions of this call, and which of all they are."""
        if self.subset is None or self.subset >= self.num_conditions:
            return encoded, None
        if streams is None:
            got = f"none, with subset={self.subset}"
            way_out = "Pass a new key at each call: reg(hnet, rngs=key)."
            raise ValueError(message("rngs", got, "what to draw the subset from", way_out))
        key = streams.subset()
        index = jax.random.choice(key, self.num_conditions, (self.subset,), replace=False)
        return encoded.each(lambda value: value[index]), index


def _as_arrays(choice: Condition, value: Any) -> Any:
    """Return a raw value whose lists of ids are arrays."""
    if isinstance(choice, Concat) and isinstance(value, (tuple, list)):
        return tuple(_as_arrays(p, v) for p, v in zip(choice.parts, value, strict=True))
    if isinstance(choice, Embedding) and isinstance(value, (range, list, tuple)):
        return as_ids(value, choice.num)
    return value


# Beside outputs, which XLA reads and writes less often than PyTorch. Measured on CPU.
_SLOWER = 1.5


class HeadMemory(nnx.Module):
    """What is remembered of a linear head.

    Args:
        head: The head.
        features: What it is run on, `(T, C, F)`.
        rows: Which of its rows count how much.
    """

    def __init__(self, head: LinearHead, features: Array, rows: tuple[Rows, ...]) -> None:
        self.features = Fixed(head.signed(features))
        self.weight = Fixed(head.weight[...])
        self.bias = Fixed(head.bias[...])
        self.rows = rows

    def distance(self, head: LinearHead, features: Array, index: Array | None) -> Array:
        """Return the weighted squared norm of the change, summed over conditions.

        Args:
            head: The head now.
            features: What it is run on now, `(T, C, F)`.
            index: Which of the remembered conditions `features` are for; `None` for all.
        """
        now, old = head.signed(features), self.features[...]
        old = old if index is None else old[index]
        d_TCG = jnp.concatenate([now - old, old, jnp.ones_like(old[..., :1])], -1)
        weight, bias = head.weight[...], head.bias[...]
        change = [weight - self.weight[...], (bias - self.bias[...])[:, None]]
        e_SG = jnp.concatenate([weight, *change], -1)
        # One split: its backward pass is one concatenation.
        edges = sorted({edge for rows in self.rows for span in rows.ranges for edge in span})
        cuts = jnp.split(e_SG[: edges[-1]], edges[1:-1])
        place = dict(zip(edges, cuts, strict=False))
        terms = []
        for rows in self.rows:
            part = [place[start] for start, _ in rows.ranges]
            factors = np.asarray(rows.factors, d_TCG.dtype)[:, None]
            d_gram = _product(d_TCG * factors, d_TCG)
            terms.append(jnp.sum(d_gram * _product(jnp.concatenate(part), jnp.concatenate(part))))
        return jnp.stack(terms).sum()


def _product(a: Array, b: Array) -> Array:
    """Return the `(G, G)` products of the columns of `(..., G)` and `(..., G)`."""
    flat = (x.reshape(-1, x.shape[-1]) for x in (a, b))
    return jnp.einsum("ng,nh->gh", *flat, precision="highest")


def remembered_heads(
    hnet: HyperNetwork, features: Mapping[int, Array], num: int, weights: Mapping[str, Any]
) -> dict[str, HeadMemory]:
    """Return memories of the heads whose change is cheaper to tell without their outputs.

    Args:
        hnet: The hypernetwork.
        features: What its heads are run on, `(T, C, F)` each.
        num: For how many of the conditions the change will be asked at a time.
        weights: Importance of each tensor, by its name.
    """
    plan, memories = hnet.plan, dict[str, HeadMemory]()
    scales = None if hnet.scales is None else hnet.scales[...]
    if is_traced(scales):
        return memories
    scales = None if scales is None else np.asarray(scales)
    numbers = {n: float(w) if isinstance(w, (int, float)) else None for n, w in weights.items()}
    for i, head in enumerate(plan.heads):
        pieces = linear_pieces(plan, i, numbers, scales)
        if not head.linear or pieces is None:
            continue
        rows = rows_that_count(head, pieces)
        if gram_is_cheaper(head, plan.features(head), num, len(rows), _SLOWER):
            memories[head.name] = HeadMemory(hnet.heads[head.name], features[i], rows)
    return memories


def made_elsewhere(hnet: HyperNetwork, heads: Mapping[str, Any]) -> list[str]:
    """Return the tensors that are not made by these heads."""
    plan = hnet.plan
    others = {i for i, head in enumerate(plan.heads) if head.name not in heads}
    return [e.tensor for e in plan.entries if any(p.head in others for p in e.pieces)]
