"""The executor: a plan and its modules, run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.choices.forms import Whole
from hyperloom._core.choices.layouts import Source
from hyperloom._core.plan.plan import Entry, Plan
from hyperloom.torch._generate.conditions import Encoded
from hyperloom.torch._generate.heads import GivenHead, LinearHead, SharedHead, TableHead


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
    features = slot_features(plan, trunks, heads, encoded)
    made, modules = [], heads._modules  # its own look-up takes as long as a small operation
    for i, head in enumerate(plan.heads):
        module = modules[head.name]
        if isinstance(module, LinearHead):
            made.append(linear_numbers(plan, i, module, features[i], scales))
        elif isinstance(module, GivenHead):
            made.append(given_numbers(plan, i, features[i], scales))
        elif isinstance(module, TableHead):
            assert encoded.ids is not None
            made.append(module.table.look_up(encoded.ids))
        else:
            assert isinstance(module, SharedHead)
            # A clone: a view would let what was generated change when the row is trained.
            made.append(module.row.clone().expand(*encoded.batch, -1))
    if waits_for_gradient(plan):
        made[0] = made[0] + 0 * encoded.vector.sum(-1, keepdim=True)
    return made


def linear_numbers(
    plan: Plan, index: int, module: LinearHead, features: Tensor, scales: Tensor | None
) -> Tensor:
    """Run a linear head: `(*batch, num_slots * slot_size)`, scales and shifts in."""
    head = plan.heads[index]
    if not head.scaled:
        numbers = module(features)
    else:
        assert scales is not None
        numbers = scale_and_shift(lambda: module(features), scales, *plan.sections[index])
    return numbers.flatten(-2) if head.embedding else numbers


def given_numbers(plan: Plan, index: int, features: Tensor, scales: Tensor | None) -> Tensor:
    """Return the numbers `(*batch, num_slots * slot_size)` of a head that has no weights.

    Not in place, as scales are elsewhere: other heads may see the same features.
    """
    head = plan.heads[index]
    flat = features.flatten(-2) if head.embedding else features
    if not head.scaled:
        return flat
    assert scales is not None
    rows, sizes = plan.sections[index]
    own = scales[list(rows)]
    if len(sizes) > len(rows):  # what is cut off
        own = torch.cat([own, own[:1]])
    repeats = torch.tensor(sizes, device=own.device)
    each = own.repeat_interleave(repeats, 0, output_size=flat.shape[-1])
    return torch.addcmul(each[:, 1], flat, each[:, 0])


def waits_for_gradient(plan: Plan) -> bool:
    """Whether a condition's vector that nothing reads is to be given a gradient, of zero.

    With tables and shared rows only, the vector has no part in anything. That is fine, but not
    for DistributedDataParallel, which waits for the gradient of each parameter.
    """
    if any(head.source is Source.FEATURES for head in plan.heads):
        return False
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def slot_features(
    plan: Plan, trunks: nn.ModuleList, heads: nn.ModuleDict, encoded: Encoded
) -> dict[int, Tensor]:
    """Run every trunk once, on the slots of all its heads.

    Returns:
        Head index -> features `(*batch, C, F)`, or `(*batch, F)` without slot embeddings: such a
        head has one slot.
    """
    found: dict[int, Tensor] = {}
    # Not by index: a ModuleList takes longer to find one than a small layer to run.
    modules = trunks._modules.values()
    for trunk, width, members in zip(modules, plan.widths, plan.trunk_heads, strict=True):
        assert trunk is not None
        ids = (encoded.ids,) if plan.trunk.needs_ids else ()
        if not width:
            features = trunk(encoded.vector, None, *ids)
            found.update((i, features) for i in members)
            continue
        own: list[Any] = [heads[plan.heads[i].name] for i in members]
        slots = [module.slot_embeddings(encoded.ids) for module in own]
        if any(s.ndim > 2 for s in slots):
            slots = [s.expand(*encoded.batch, *s.shape[-2:]) for s in slots]
        every = slots[0] if len(slots) == 1 else torch.cat(slots, -2)
        features = trunk(encoded.vector, every, *ids)
        counts = [plan.heads[i].num_slots for i in members]
        found.update(zip(members, features.split(counts, dim=-2), strict=True))
    return found


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
    parts = cut(plan, raw)
    row, made = 0, {}
    for entry in plan.entries:
        num = len(entry.pieces)
        if type(entry.form) is Whole:
            value = parts[row]
        else:
            base = base_of(entry, bases, banks)
            own = tuple(parts[row : row + num])
            value = entry.form.assemble(own, base, plan.spec[entry.tensor].shape)
        row += num
        dtype = dtypes[entry.tensor]
        made[entry.tensor] = value if value.dtype == dtype else value.to(dtype)
    return made


def cut(plan: Plan, raw: list[Tensor]) -> list[Tensor]:
    """Cut the heads' numbers into parts `(*batch, *shape)`, in the order of `plan.pieces`.

    One split for each head: its backward pass is one concatenation, where slices would each fill
    a gradient of the whole output.
    """
    made: list[Any] = [None] * len(plan.pieces)
    for flat, (rows, sizes) in zip(raw, plan.sections, strict=True):
        cuts = (flat,) if len(sizes) == 1 else torch.split_with_sizes(flat, sizes, -1)
        batch = flat.shape[:-1]
        for row, part in zip(rows, cuts, strict=False):
            shape = plan.block_shapes[row]
            if shape is None:
                made[row] = plan.pieces[row].arrange(part, torch.permute)
            else:
                # A vector is as it should be, and a view of it a node more in the graph.
                made[row] = part if len(shape) == 1 else part.view(batch + shape)
    return made


def scale_and_shift(
    run: Callable[[], Tensor], scales: Tensor, rows: tuple[int, ...], sizes: tuple[int, ...]
) -> Tensor:
    """Run a head and give each range of its output its scale and shift.

    In the output's own memory, so that a large target takes that of one copy, not of two: range
    by range where no gradient is taken, else in one pass (written in parts, autograd would copy
    the whole gradient for every part).

    Args:
        run: Returns the head's fresh output `(*batch, C, S)`; such heads have slot embeddings.
        scales: `(num_pieces, 2)`, scale and shift of each piece.
        rows: The pieces, in the order of their ranges.
        sizes: Sizes of the ranges; a last one without a piece is cut off later.
    """
    shifted = _any_shift(scales)
    if not torch.is_grad_enabled():
        numbers = run()
        for row, part in zip(rows, numbers.flatten(-2).split(sizes, -1), strict=False):
            part.mul_(scales[row, 0])
            if shifted:
                part.add_(scales[row, 1])
        return numbers
    repeats = torch.tensor(sizes, device=scales.device)
    # Before the head runs: on the way these take more memory than in the end.
    each = [_spread(scales[:, i], rows, repeats, sum(sizes)) for i in range(1 + shifted)]
    numbers = run()
    scale, *shift = (values.view(numbers.shape[-2:]) for values in each)
    numbers = numbers.mul_(scale)
    return numbers.add_(shift[0]) if shifted else numbers


def _spread(values: Tensor, rows: tuple[int, ...], repeats: Tensor, size: int) -> Tensor:
    """Return each piece's value for each of its numbers, `(size,)`."""
    own = values[list(rows)]
    if len(repeats) > len(rows):  # what is cut off
        own = torch.cat([own, own[:1]])
    return own.repeat_interleave(repeats, output_size=size)


def _any_shift(scales: Tensor) -> bool:
    """Whether any piece has a shift; where that cannot be read without waiting, yes."""
    if scales.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    try:
        return bool(scales[:, 1].any())
    except RuntimeError:  # a traced value cannot be read
        return True


def base_of(entry: Entry, bases: Mapping[str, Tensor], banks: Sequence[Tensor]) -> Tensor | None:
    """Return the tensor that the entry's form changes, or the bank that it combines."""
    if entry.bank is not None:
        return banks[entry.bank]
    return bases[entry.tensor] if entry.form.has_base else None


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
