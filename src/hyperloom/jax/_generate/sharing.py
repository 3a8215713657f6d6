"""Rows that share a condition id: each id is generated once."""

from __future__ import annotations

import jax.numpy as jnp

from hyperloom._core.choices.conditions import Embedding
from hyperloom._core.choices.trunks import MLP, Linear
from hyperloom.jax._generate.conditions import EmbeddingCondition
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.generator import Generator
from hyperloom.jax._generate.norms import training


def every_id(generator: Generator, encoded: Encoded, draws: bool) -> Encoded | None:
    """Return all ids there are, where a batch has at least twice as many rows; else `None`.

    The number of rows decides and no value is looked at, so it is the same under `jit`. Only
    where that cannot change a result: the vector is a function of the id alone, and the trunk
    draws nothing and takes no statistics of the batch.

    Args:
        generator: The generator.
        encoded: The conditions, `(B,)` or `()`.
        draws: Whether the trunk draws random numbers in this call.
    """
    condition, trunk = generator.condition, generator.plan.trunk
    if encoded.ids is None or not encoded.batch or not isinstance(condition, EmbeddingCondition):
        return None
    rows, num = encoded.batch[0], condition.table.num
    # The rows of an exported function may be a symbol, which compares with nothing.
    if not isinstance(rows, int) or rows < 2 * num:
        return None
    fixed = isinstance(trunk, (MLP, Linear)) and not draws and not training(generator.trunks)
    if not fixed or not isinstance(generator.plan.condition, Embedding):
        return None
    return condition(jnp.arange(num))
