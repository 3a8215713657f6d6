"""The output regulariser of continual learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._condition import Concat, Condition, Embedding
from hyperloom._errors import finite_float, message, positive_int
from hyperloom._regularizer import check_batch, check_fixed, check_weights, weight_of
from hyperloom.jax._adaptor import Box
from hyperloom.jax._conditions import Encoded
from hyperloom.jax._generate import slot_features
from hyperloom.jax._gram import HeadMemory, made_elsewhere, remembered_heads
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._run import as_rngs
from hyperloom.jax._variables import Fixed


class OutputRegularizer(nnx.Module):
    """Keeps what the hypernetwork generates for old conditions while it learns new ones.

    `remember` stores the tensors generated now; calling the object returns

        strength / T * sum over the T old conditions of || h(now) - h(remembered) ||^2

    with all old conditions generated in one batched pass; or, where that is cheaper, with Gram
    matrices of features and heads in place of the outputs (`_gram.py`). Von Oswald et al.,
    "Continual learning with hypernetworks", ICLR 2020, equation 2, without the lookahead step.

    It is an NNX module whose variables are what it remembers: pass it to a jitted step as an
    argument, as any module, so that the step sees what is remembered later.

    Args:
        strength: Factor on the mean over old conditions (the paper's beta).
        subset: Regularise this many old conditions a call, drawn anew at each call without
            replacement, from the key that the call is given; the mean is over those drawn.
            `None` (default) takes all.
        weights: Importance of tensors: a dict from name patterns to a number or to an array that
            broadcasts to the tensor's shape (a mask, a Fisher diagonal), first match wins; what
            no pattern names counts 1.

    Raises:
        ValueError: A negative `strength`, or a `subset` below 1.

    Example:
        >>> reg = OutputRegularizer(strength=0.01)
        >>> # before learning task t:  reg.remember(hnet, range(t))
        >>> # at each step:            loss = task_loss + reg(hnet)
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
        self.weights = Box(dict(weights or {}))
        self.num_conditions = 0
        self.conditions = nnx.data(Fixed(None))
        self.targets = nnx.Dict({})
        self.heads = nnx.Dict({})

    def remember(self, hnet: HyperNetwork, conditions: Any) -> None:
        """Store what `hnet` generates for a batch of conditions now, in place of what was stored.

        Args:
            hnet: The hypernetwork.
            conditions: Raw value of a batch of conditions, e.g. `range(t)` or ids `(T,)`. An
                empty range or list forgets everything: the regulariser is then zero.

        Raises:
            ValueError: One condition instead of a batch, noise that is drawn anew at each call, a
                weight's pattern that names no generated tensor, or a weight whose shape does not
                broadcast to that of a tensor it is for.
        """
        if isinstance(conditions, (range, list, tuple)) and len(conditions) == 0:
            self.conditions = nnx.data(Fixed(None))
            self.targets, self.heads, self.num_conditions = nnx.Dict({}), nnx.Dict({}), 0
            return
        check_weights(self.weights.held, hnet.plan, np.shape, "an array")
        check_fixed(hnet.plan.condition, conditions, (Array, np.ndarray), "an array")
        raw = _as_arrays(hnet.plan.condition, conditions)
        encoded = hnet._encode(raw, None)
        check_batch(encoded.batch)
        key, num = hnet._trunk_key(None), encoded.batch[0]
        features = slot_features(hnet.plan, hnet.trunks, hnet.heads, encoded, key)
        weights = {e.tensor: weight_of(self.weights.held, e.tensor) for e in hnet.plan.entries}
        asked = num if self.subset is None else min(self.subset, num)
        heads = remembered_heads(hnet, features, asked, weights)
        rest = made_elsewhere(hnet, heads)
        made = hnet._generate(encoded, features=features) if rest else {}
        self.conditions, self.heads = nnx.data(Fixed(raw)), nnx.Dict(heads)
        self.targets = nnx.Dict({n: Fixed(jax.lax.stop_gradient(made[n])) for n in rest})
        self.num_conditions = num

    def __call__(self, hnet: HyperNetwork, *, rngs: Any = None) -> Array:
        """Return the penalty, a scalar; zero while nothing is remembered.

        Args:
            hnet: The hypernetwork.
            rngs: With `subset` what to draw it from: a key or an `nnx.Rngs`.

        Raises:
            ValueError: `subset` without `rngs`.
        """
        if not self.num_conditions:
            return jnp.zeros(())
        encoded, index = self._chosen(hnet._encode(self.conditions.get_value(), None), rngs)
        key, total = hnet._trunk_key(None), jnp.zeros(())
        features = slot_features(hnet.plan, hnet.trunks, hnet.heads, encoded, key)
        for i, head in enumerate(hnet.plan.heads):
            if head.name in self.heads:
                memory: HeadMemory = self.heads[head.name]
                total += memory.distance(hnet.heads[head.name], features[i], index)
        made = hnet._generate(encoded, features=features) if self.targets else {}
        for name in self.targets:
            old = self.targets[name][...]
            change = made[name] - (old if index is None else old[index])
            total += jnp.sum(jnp.square(change) * weight_of(self.weights.held, name))
        return self.strength / encoded.batch[0] * total

    def _chosen(self, encoded: Encoded, rngs: Any) -> tuple[Encoded, Array | None]:
        """Return the conditions of this call, and which of all they are."""
        if self.subset is None or self.subset >= self.num_conditions:
            return encoded, None
        streams = as_rngs(rngs)
        if streams is None:
            got = f"none, with subset={self.subset}"
            way_out = "Pass a new key at each call: reg(hnet, rngs=key)."
            raise ValueError(message("rngs", got, "what to draw the subset from", way_out))
        key = streams.subset()
        index = jax.random.choice(key, self.num_conditions, (self.subset,), replace=False)
        ids = None if encoded.ids is None else encoded.ids[index]
        return Encoded(encoded.vector[index], ids), index


def _as_arrays(choice: Condition, value: Any) -> Any:
    """Return a raw value whose lists of ids are arrays."""
    if isinstance(choice, Concat) and isinstance(value, (tuple, list)):
        return tuple(_as_arrays(p, v) for p, v in zip(choice.parts, value, strict=True))
    if isinstance(choice, Embedding) and isinstance(value, (range, list, tuple)):
        return jnp.asarray(np.asarray(list(value)))
    return value
