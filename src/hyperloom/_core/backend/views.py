"""Generated tensors in other forms, and checks of tensors that stand in for generated ones.

They work on the arrays of any backend, which passes the functions that join and cut them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperloom._core.arrays import ArrayKind
from hyperloom._core.backend.checks import a_plan
from hyperloom._core.errors import a_function, a_kind, a_mapping, a_string, message, shown
from hyperloom._core.plan.plan import Plan

Arrays = dict[str, Any]


def shapes_of(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Return the shape of each generated tensor, in the target's order."""
    return {entry.tensor: plan.spec[entry.tensor].shape for entry in plan.entries}


def batches_of(params: Mapping[str, Any], plan: Plan) -> dict[str, tuple[int, ...]]:
    """Return the dimensions before each generated tensor's shape.

    Raises:
        ValueError: A tensor is missing, or its last dimensions are not its shape.
    """
    batches = {}
    for name, shape in shapes_of(plan).items():
        if name not in params:
            raise ValueError(message("params", f"no tensor for {name!r}", "all generated tensors"))
        size = tuple(params[name].shape)
        cut = len(size) - len(shape)
        if cut < 0 or size[cut:] != shape:
            wanted = f"shape ({', '.join(map(str, ('*batch', *shape)))})"
            raise ValueError(message(f"params[{name!r}]", f"shape {size}", wanted))
        batches[name] = size[:cut]
    return batches


def flatten(
    params: Mapping[str, Any], plan: Plan, kind: ArrayKind, join: Callable[[list[Any]], Any]
) -> Any:
    """Join tensors `{name: (*batch, *shape)}` into `(*batch, P)`; `join` along the last axis.

    Raises:
        TypeError: Not a dict from names to arrays, or no plan.
        ValueError: A tensor is missing, has another shape, or another batch than the first.
    """
    a_plan("plan", plan)
    kind.check_all("params", params)
    batches = batches_of(params, plan)
    if len(set(batches.values())) > 1:
        got = f"batches {sorted(set(batches.values()))}"
        raise ValueError(message("params", got, "the same for all tensors"))
    sizes = {name: math.prod(shape) for name, shape in shapes_of(plan).items()}  # no -1: B may be 0
    return join([params[name].reshape(*b, sizes[name]) for name, b in batches.items()])


def unflatten(
    flat: Any, plan: Plan, kind: ArrayKind, split: Callable[[Any, list[int]], Sequence[Any]]
) -> Arrays:
    """Cut `(*batch, P)` into tensors; `split` into ranges of given sizes along the last axis.

    Raises:
        TypeError: No array, or no plan.
        ValueError: Another width than `P`.
    """
    kind.check("flat", flat)
    a_plan("plan", plan)
    check_width("flat", flat, plan)
    shapes = shapes_of(plan)
    sizes = [math.prod(shape) for shape in shapes.values()]
    cuts = zip(shapes.items(), split(flat, sizes), strict=True)
    return {name: cut.reshape((*flat.shape[:-1], *shape)) for (name, shape), cut in cuts}


def unstack(
    params: Mapping[str, Any], kind: ArrayKind, rows: Callable[[Any], Sequence[Any]]
) -> list[Arrays]:
    """Take a batch `{name: (B, *shape)}` apart; `rows` cuts along the first axis.

    Raises:
        TypeError: Not a dict from names to arrays.
        ValueError: Tensors with different first dimensions, or none at all.
    """
    kind.check_all("params", params)
    sizes = {tuple(value.shape[:1]) for value in params.values()}
    if len(sizes) != 1 or sizes == {()}:
        got = f"tensors with first dimensions {sorted(sizes)}"
        raise ValueError(message("params", got, "tensors (B, *shape)"))
    apart = zip(*(rows(value) for value in params.values()), strict=True)
    return [dict(zip(params, row, strict=True)) for row in apart]


def stack(
    samples: Sequence[Mapping[str, Any]], kind: ArrayKind, join: Callable[[list[Any]], Any]
) -> Arrays:
    """Put the tensors of several conditions into a batch; `join` makes the first axis.

    Raises:
        TypeError: Not a list or tuple of dicts from names to arrays.
        ValueError: No sample, or samples with other names or shapes than the first.
    """
    if not isinstance(samples, (list, tuple)):
        raise TypeError(message("samples", shown(samples), "a list of dicts"))
    for i, sample in enumerate(samples):
        kind.check_all(f"samples[{i}]", sample)
    if not samples or any(set(sample) != set(samples[0]) for sample in samples):
        raise ValueError(message("samples", "none, or different names", "dicts of the same names"))
    for name in samples[0]:
        shapes = sorted({tuple(sample[name].shape) for sample in samples})
        if len(shapes) > 1:
            got = f"shapes {' and '.join(map(str, shapes))} for {name!r}"
            raise ValueError(message("samples", got, "tensors of one shape"))
    return {name: join([sample[name] for sample in samples]) for name in samples[0]}


def check_id(cond_id: int, plan: Plan) -> None:
    """Raise for an id that the hypernetwork does not know."""
    if plan.num_ids is None:
        raise ValueError(message("cond_id", shown(cond_id), "None, as the condition has no ids"))
    num = plan.num_ids
    if isinstance(cond_id, bool) or not isinstance(cond_id, int):
        raise TypeError(message("cond_id", shown(cond_id), f"an int id in 0 .. {num - 1}, or None"))
    if not 0 <= cond_id < num:
        raise IndexError(message("cond_id", cond_id, f"an id in 0 .. {num - 1}"))


def check_width(argument: str, flat: Any, plan: Plan) -> None:
    """Raise unless a vector is as wide as all generated tensors together."""
    total = sum(math.prod(shape) for shape in shapes_of(plan).values())
    if flat.ndim == 0 or flat.shape[-1] != total:
        raise ValueError(message(argument, shown(flat), f"(*batch, {total})"))


def check_handlers(**handlers: Any) -> None:
    """Raise for a handler that is neither `None` nor can be called."""
    for name, handler in handlers.items():
        if handler is not None:
            a_function(name, handler, "a function, or None")


def check_parts(parts: Any, kind: type, argument: str = "parts") -> Mapping[str, Any]:
    """Return the parts of a whole, if they are hypernetworks without a state, by name."""
    wanted = "a dict from names to HyperNetworks"
    for name, part in a_mapping(argument, parts, wanted).items():
        if not a_string(argument, name, wanted) or "." in name:
            raise ValueError(message(argument, repr(name), "names without dots"))
        a_kind(f"{argument}[{name!r}]", part, kind, "a HyperNetwork")
        refuse_carry(f"{argument}[{name!r}]", part.plan)
    if not parts:
        raise ValueError(message(argument, "none", "at least one hypernetwork"))
    return parts


def support_of(condition: Any) -> tuple[Any, ...]:
    """Return a support set as a tuple, its inputs first."""
    support = condition if isinstance(condition, tuple) else (condition,)
    if not support:
        wanted = "the support's inputs, or a tuple with them first"
        raise ValueError(message("condition", "an empty tuple", wanted))
    return support


def check_noise(noise: Any, cuts: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Raise unless given noise, cut into tensors, is of the shapes of what is generated."""
    for name, value in tensors.items():
        if tuple(cuts[name].shape) != tuple(value.shape):
            wanted = f"(*batch, P) with the batch of {tuple(value.shape)}"
            raise ValueError(message("noise", f"shape {tuple(noise.shape)}", wanted))


def check_assembled(tensors: Mapping[str, Any], plan: Plan) -> Arrays:
    """Return the tensors that `assemble` returned for one condition, in the target's order.

    Raises:
        TypeError: Not a mapping.
        ValueError: A tensor of the target is missing or of another shape, or an unknown name.
    """
    shapes, wanted = shapes_of(plan), "a tensor for each of the target's"
    a_mapping("assemble", tensors, wanted)
    if set(tensors) != set(shapes):
        missing, unknown = set(shapes) - set(tensors), set(tensors) - set(shapes)
        got = f"{sorted(missing)} missing, {sorted(unknown)} unknown"
        raise ValueError(message("assemble", got, wanted))
    for name, shape in shapes.items():
        size = getattr(tensors[name], "shape", None)
        if size is None or tuple(size) != shape:
            got = repr(tensors[name]) if size is None else f"shape {tuple(size)}"
            raise ValueError(message("assemble", f"{got} for {name!r}", f"{shape}"))
    return {name: tensors[name] for name in shapes}


def conditions_of(condition: Any, parts: Sequence[str]) -> Arrays:
    """Return the raw value for each part: one for all, or a dict with one for each.

    Raises:
        ValueError: A dict with other names than those of the parts.
    """
    if not isinstance(condition, Mapping):
        return dict.fromkeys(parts, condition)
    if set(condition) != set(parts):
        raise ValueError(message("condition", sorted(map(str, condition)), f"{sorted(parts)}"))
    return {name: condition[name] for name in parts}


def common_batch(
    tensors_of_parts: Mapping[str, Mapping[str, Any]], plans: Mapping[str, Plan]
) -> tuple[int, ...]:
    """Return the batch that what all parts generated has.

    Raises:
        ValueError: Parts with different batches.
    """
    batches = {
        part: next(iter(batches_of(tensors_of_parts[part], plans[part]).values()))
        for part in tensors_of_parts
    }
    if len(set(batches.values())) > 1:
        raise ValueError(message("condition", f"batches {batches}", "the same for all parts"))
    return next(iter(batches.values()))


def need_carry(plan: Plan) -> None:
    """Raise if a hypernetwork's condition carries no state."""
    if not plan.condition.has_carry:
        wanted = "a hypernetwork whose condition carries a state (Recurrent)"
        raise TypeError(message("carry", f"one with {plan.condition}", wanted))


def refuse_carry(argument: str, plan: Plan) -> None:
    """Raise if a hypernetwork's condition carries a state, which would be lost here."""
    if plan.condition.has_carry:
        got, wanted = f"one with {plan.condition}", "a hypernetwork whose condition has no state"
        way_out = "Generate step by step, and change the tensors between generate() and run()."
        raise ValueError(message(argument, got, wanted, way_out))
