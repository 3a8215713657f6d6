"""What the arguments of a hypernetwork's `forward` mean: weights given, conditions looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperloom.compat.hypnettorch._door.errors import RefusedError, require

if TYPE_CHECKING:
    from hyperloom.compat.hypnettorch.hnets.hnet_interface import HyperNetInterface

Tensors = list[Tensor]


def supplied(hnet: HyperNetInterface, weights: Any) -> tuple[Tensors | None, Tensors | None]:
    """Return the unconditional and conditional parameters of a call.

    Args:
        hnet: The hypernetwork.
        weights: Argument `weights` of its `forward`: `None`, a list or a dict.
    """
    uncond, cond = hnet.unconditional_params, hnet.conditional_params
    if weights is None:
        return uncond, cond
    if isinstance(weights, dict):
        known = {"uncond_weights", "cond_weights"} & set(weights)
        require(bool(known), "weights: wanted the key uncond_weights, cond_weights, or both.")
        uncond = _of_length(weights, "uncond_weights", hnet.unconditional_param_shapes, uncond)
        cond = _of_length(weights, "cond_weights", hnet.conditional_param_shapes, cond)
        return uncond, cond
    tensors = _all_tensors(hnet, list(weights))
    return (
        [tensors[i] for i in hnet.unconditional_param_shapes_ref],
        [tensors[i] for i in hnet.conditional_param_shapes_ref],
    )


def _of_length(
    weights: dict[str, Any], key: str, shapes: Sequence[Any], default: Tensors | None
) -> Tensors | None:
    if key not in weights:
        return default
    text = f"weights[{key!r}]: got {len(weights[key])} tensors; wanted {len(shapes)}."
    require(len(weights[key]) == len(shapes), text)
    return list(weights[key])


def _all_tensors(hnet: HyperNetInterface, given: Tensors) -> Tensors:
    """Return a tensor for each of `param_shapes`; what is not given is held inside."""
    outside = hnet.hyper_shapes_learned_ref
    if outside is not None and len(given) == len(outside):
        held = iter(hnet.internal_params or ())
        where = dict(zip(outside, given, strict=True))
        return [where[i] if i in where else next(held) for i in range(len(hnet.param_shapes))]
    if len(given) != len(hnet.param_shapes):
        wanted = sorted({len(outside or ()), len(hnet.param_shapes)})
        raise ValueError(
            f"weights: got {len(given)} tensors; wanted {' or '.join(map(str, wanted))}."
        )
    return given


def ids_of(cond_id: Any, num: int) -> list[int]:
    """Return the ids of a call as a list, checked."""
    require(isinstance(cond_id, (int, list)), "cond_id: wanted an int or a list of ints.")
    ids = [cond_id] if isinstance(cond_id, int) else list(cond_id)
    for i in ids:
        if i < 0 or i >= num:
            raise ValueError(f"cond_id: got {i}; wanted ids in 0 .. {num - 1}.")
    return ids


def check_inputs(
    uncond_input: Tensor | None, cond_input: Tensor | None, cond_id: Any, required: bool
) -> None:
    """Raise for inputs that are missing, exclude each other, or lack their batch dimension."""
    if required and uncond_input is None and cond_input is None and cond_id is None:
        raise RuntimeError("No inputs: wanted uncond_input, cond_input or cond_id.")
    if cond_input is not None and cond_id is not None:
        raise ValueError("cond_id: cannot be given together with cond_input.")
    if cond_input is not None and cond_input.ndim == 1:
        raise ValueError("cond_input: wanted a batch dimension in front.")


def look_up(hnet: HyperNetInterface, cond_id: Any, cond_weights: Tensors | None) -> Tensor:
    """Return the condition vectors `(B, E)` of some ids."""
    if cond_weights is None:
        raise ValueError("cond_id: there are no conditional parameters, inside or in weights.")
    shapes = hnet.conditional_param_shapes
    require(len(cond_weights) == len(shapes), "cond_id: conditional parameters are missing.")
    if len(cond_weights) != hnet.num_known_conds:
        raise RuntimeError("cond_id: there is not one conditional tensor for each condition.")
    return torch.stack([cond_weights[i] for i in ids_of(cond_id, hnet.num_known_conds)])


def one_batch(*inputs: Tensor | None) -> list[Tensor | None]:
    """Expand inputs of batch size 1 to that of the others."""
    sizes = {len(x) for x in inputs if x is not None}
    if len(sizes - {1}) > 1:
        raise RuntimeError(f"Inputs with batch sizes {sorted(sizes)}; wanted one size.")
    most = max(sizes, default=1)
    return [x if x is None else x.expand(most, *x.shape[1:]) for x in inputs]


def check_width(argument: str, value: Tensor | None, width: int) -> None:
    """Raise unless `value` is `(B, width)`, or absent where the width is 0."""
    if value is None:
        require(width == 0, f"{argument}: got none; wanted a tensor (B, {width}).")
    elif value.ndim != 2 or value.shape[1] != width:
        raise RefusedError(f"{argument}: got shape {tuple(value.shape)}; wanted (B, {width}).")
