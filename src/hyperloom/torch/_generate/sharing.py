"""Rows that share a condition: the condition is generated once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.choices.conditions import Embedding
from hyperloom._core.choices.trunks import MLP, Linear
from hyperloom.torch._generate.conditions import EmbeddingCondition, Encoded
from hyperloom.torch._generate.generator import Generator


def may_share(generator: Generator, encoded: Encoded) -> bool:
    """Whether rows may share a condition, and the vector is a function of the id alone."""
    known = isinstance(generator.plan.condition, Embedding)
    return known and encoded.ids is not None and isinstance(generator.condition, EmbeddingCondition)


def distinct(generator: Generator, encoded: Encoded) -> tuple[Encoded, Tensor | None]:
    """Return each condition once and which one each row has, if rows share conditions.

    Only where that cannot change a result: the trunk draws nothing and keeps no statistics. With
    more rows than twice the ids there are, all ids are generated, which needs no look at the
    values; else, on the CPU, those that occur.

    Returns:
        The conditions to generate and the index of each row `(B,)`; or the conditions as they
        were and `None`.
    """
    condition: Any = generator.condition
    table, ids = condition.table, encoded.ids
    assert ids is not None
    if not _deterministic(generator):
        return encoded, None
    num = len(ids)
    if num >= 2 * table.num:
        every = torch.arange(table.num, device=ids.device)
        return Encoded(table.look_up(every), every), ids
    if ids.device.type != "cpu" or torch.compiler.is_compiling():
        return encoded, None
    try:
        found, index = torch.unique(ids, return_inverse=True)
        few = 2 * len(found) <= num
    except RuntimeError:  # a traced value cannot be read
        return encoded, None
    return (Encoded(table.look_up(found), found), index) if few else (encoded, None)


def _deterministic(generator: Generator) -> bool:
    """Whether the trunk gives equal rows for equal conditions, whatever else is in the batch."""
    trunk = generator.plan.trunk
    if isinstance(trunk, MLP):
        return not (_training(generator.trunks) and (trunk.dropout > 0 or trunk.norm == "batch"))
    return isinstance(trunk, Linear)


def _training(module: nn.Module) -> bool:
    return any(part.training for part in module.modules())
