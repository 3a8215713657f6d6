"""Rows that share a condition: the condition is generated once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperloom._core.choices.conditions import Embedding
from hyperloom._core.choices.trunks import MLP, Linear
from hyperloom.torch._generate.conditions import EmbeddingCondition, Encoded
from hyperloom.torch._generate.generator import Generator


def shared_ids(generator: Generator, encoded: Encoded) -> tuple[Encoded, Tensor | None]:
    """Return each condition once and which one each row has, if rows share conditions.

    Only where that cannot change a result: the vector is a function of the id alone, and the
    trunk draws nothing and keeps no statistics. With more rows than twice the ids there are, all
    ids are generated, which needs no look at the values; else, on the CPU, those that occur.

    Returns:
        The conditions to generate and the index of each row `(B,)`; or the conditions as they
        were and `None`.
    """
    if encoded.ids is None or not isinstance(generator.condition, EmbeddingCondition):
        return encoded, None
    if not isinstance(generator.plan.condition, Embedding) or not _deterministic(generator):
        return encoded, None
    table, num = generator.condition.table, len(encoded.ids)
    if num >= 2 * table.num:
        ids = torch.arange(table.num, device=encoded.ids.device)
        return Encoded(table.look_up(ids), ids), encoded.ids
    if encoded.ids.device.type != "cpu" or torch.compiler.is_compiling():
        return encoded, None
    try:
        ids, index = torch.unique(encoded.ids, return_inverse=True)
        few = 2 * len(ids) <= num
    except RuntimeError:  # a traced value cannot be read
        return encoded, None
    return (Encoded(table.look_up(ids), ids), index) if few else (encoded, None)


def _deterministic(generator: Generator) -> bool:
    """Whether the trunk gives equal rows for equal conditions, whatever else is in the batch."""
    trunk = generator.plan.trunk
    if isinstance(trunk, MLP):
        return not (_training(generator.trunks) and (trunk.dropout > 0 or trunk.norm == "batch"))
    return isinstance(trunk, Linear)


def _training(module: nn.Module) -> bool:
    return any(part.training for part in module.modules())
