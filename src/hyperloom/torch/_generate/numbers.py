"""The executor: a plan and its modules, run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.backend.walk import SLOT_TABLES, join
from hyperloom._core.plan.plan import NO_PIECE, Plan
from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._generate.heads import Seen
from hyperloom.torch._generate.slots import LinearTrunk


def raw_numbers(
    plan: Plan,
    trunks: nn.ModuleList,
    heads: nn.ModuleDict,
    encoded: Encoded,
    scales: Tensor | None,
) -> list[Tensor]:
    """Run every head: `(*batch, num_slots * slot_size)` for each, in the plan's order.

    The numbers have their scales and shifts.

    Args:
        plan: The plan.
        trunks: Its trunks.
        heads: Its heads.
        encoded: The conditions.
        scales: `(num_pieces, 2)`, scale and shift of each piece; `None` if no head has any.
    """
    features, batch = slot_features(plan, trunks, heads, encoded), encoded.vector.shape[:-1]
    numbers, modules = [], heads._modules  # a ModuleDict looks up as slowly as a small op
    for i, head in enumerate(plan.heads):
        module: Any = modules[head.name]
        numbers.append(module.numbers(Seen(features.get(i), encoded.ids, batch, scales)))
    if waits_for_gradient(plan):
        numbers[0] = numbers[0] + 0 * encoded.vector.sum(-1, keepdim=True)
    return numbers


def waits_for_gradient(plan: Plan) -> bool:
    """Whether the condition's vector is unused and must get a zero gradient all the same.

    With tables and shared rows only, no head reads the vector. DistributedDataParallel waits for
    the gradient of every parameter, so those of the condition need one.
    """
    if plan.widths:
        return False
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def beside_vector(plan: Plan, encoded: Encoded) -> tuple[Tensor | None, ...]:
    """Return what a trunk is given after the vector and the slots' embeddings."""
    if plan.trunk_over_slots:
        return encoded.context, encoded.mask
    return (encoded.ids,) if plan.trunk_needs_ids else ()


def slot_features(
    plan: Plan, trunks: nn.ModuleList, heads: nn.ModuleDict, encoded: Encoded
) -> dict[int, Tensor]:
    """Run every trunk once, on the slots of all its heads.

    Returns:
        Head index -> features `(*batch, C, F)`, or `(*batch, F)` without slot embeddings: such a
        head has one slot.
    """
    features_of_head: dict[int, Tensor] = {}
    # Not by index: a ModuleList takes longer to find one than a small layer to run.
    modules, more = trunks._modules.values(), beside_vector(plan, encoded)
    tables = heads[SLOT_TABLES] if plan.slot_tables else None
    for trunk, width, members in zip(modules, plan.widths, plan.trunk_heads, strict=True):
        assert trunk is not None
        if not width:
            features = encoded.vector
            # No trunk: the vector is the features, unless somebody wants to be told of the call.
            if type(trunk) is not LinearTrunk or trunk._forward_hooks or trunk._forward_pre_hooks:
                features = trunk(features, None, *more)
            features_of_head.update((i, features) for i in members)
            continue
        with_slots: list[Any] = [heads[plan.heads[i].name] for i in members]
        given = (encoded.ids, tables, encoded.vector)
        slots = [module.slot_embeddings(*given) for module in with_slots]
        if any(s.ndim > 2 for s in slots):
            slots = [s.expand(*encoded.batch, *s.shape[-2:]) for s in slots]
        every = slots[0] if len(slots) == 1 else torch.cat(slots, -2)
        features = trunk(encoded.vector, every, *more)
        counts = [plan.heads[i].num_slots for i in members]
        features_of_head.update(zip(members, features.split(counts, dim=-2), strict=True))
    return features_of_head


def assemble(
    plan: Plan,
    raw: list[Tensor],
    bases: Mapping[str, Tensor],
    banks: Sequence[Tensor],
    dtypes: Mapping[str, torch.dtype],
) -> dict[str, Tensor]:
    """Cut the heads' numbers into tensors: `{name: (*batch, *shape)}` in the wanted dtypes.

    Args:
        plan: The plan.
        raw: `(*batch, num_slots * slot_size)` for each head, scales and shifts in.
        bases: The tensors that forms with a base change.
        banks: The plan's banks.
        dtypes: Wanted dtype of each tensor.
    """
    parts, names = cut(plan, raw), plan.as_generated
    tensors = dict(zip(names, parts, strict=True)) if names else join(plan, parts, bases, banks)
    for name, value in tensors.items():
        if value.dtype != dtypes[name]:
            tensors[name] = value.to(dtypes[name])
    return tensors


def cut(plan: Plan, raw: list[Tensor]) -> list[Tensor]:
    """Cut the heads' numbers into parts `(*batch, *shape)`, in the order of `plan.pieces`.

    One split for each head: its backward pass is one concatenation, where slices would each fill
    a gradient of the whole output.
    """
    parts: list[Any] = [None] * len(plan.pieces)
    for flat, (rows, sizes) in zip(raw, plan.sections, strict=True):
        cuts = (flat,) if len(sizes) == 1 else torch.split_with_sizes(flat, sizes, -1)
        batch = flat.shape[:-1]
        for row, part in zip(rows, cuts, strict=False):
            if row == NO_PIECE:
                continue
            shape = plan.block_shapes[row]
            if shape is None:
                parts[row] = plan.pieces[row].arrange(part, torch.permute)
            else:
                # A vector has its shape already, and a view would add a node to the graph.
                parts[row] = part if len(shape) == 1 else part.view(batch + shape)
    return parts


def feature_moments(
    plan: Plan, trunks: nn.ModuleList, heads: nn.ModuleDict, encoded: Encoded
) -> dict[int, float]:
    """Measure the mean square of each head's features on sample conditions.

    Initialisation divides by it, so that generated tensors have the plan's variance whatever
    the trunk is.
    """
    modes = {module: module.training for module in trunks.modules()}
    trunks.eval()
    try:
        with torch.no_grad():
            features = slot_features(plan, trunks, heads, encoded)
    finally:
        for module, mode in modes.items():
            module.training = mode
    moments = {i: float(f.double().square().mean()) for i, f in features.items()}
    # A trunk that gives only zeros (a zero-initialised last layer) sets no scale.
    return {i: m if 0 < m < float("inf") else 1.0 for i, m in moments.items()}
