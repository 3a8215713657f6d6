"""The output regulariser of continual learning: what is generated for old tasks is to stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.compat.hypnettorch.hnets.hnet_interface import HyperNetInterface

Weights = Sequence[Tensor]


def get_current_targets(task_id: int, hnet: Any) -> list[list[Tensor]]:
    """Return what `hnet` generates now for all tasks before `task_id`, without gradients.

    The hypernetwork is put into eval mode for the call. An empty list for `task_id` 0.
    """
    return _generated(hnet, list(range(task_id)), None) if task_id else []


def calc_fix_target_reg(
    hnet: Any,
    task_id: int,
    targets: Sequence[Weights] | None = None,
    dTheta: Weights | None = None,
    dTembs: Weights | None = None,
    mnet: Any = None,
    inds_of_out_heads: Sequence[list[int]] | None = None,
    fisher_estimates: Sequence[Weights] | None = None,
    prev_theta: Weights | None = None,
    prev_task_embs: Weights | None = None,
    batch_size: int | None = None,
    reg_scaling: Sequence[float] | None = None,
) -> Tensor:
    """Return the mean over old tasks of the squared distance between generated and old weights.

    All tasks are generated in one call; von Oswald et al., "Continual learning with
    hypernetworks", ICLR 2020, equation 2. Natively that is `OutputRegularizer`.

    Args:
        hnet: The hypernetwork.
        task_id: The task that is learned now, at least 1.
        targets: What was generated for each old task (`get_current_targets`).
        dTheta: A change of the shared parameters, added before weights are generated.
        dTembs: A change of the conditional parameters, likewise.
        mnet: The target; wanted with `inds_of_out_heads`.
        inds_of_out_heads: For each task, which output neurons it uses; others do not count.
        fisher_estimates: For each task, the importance of every weight.
        prev_theta: Shared parameters before this task, in place of `targets`.
        prev_task_embs: Conditional parameters before this task, likewise.
        batch_size: Regularise only this many tasks, drawn by NumPy.
        reg_scaling: A factor for each task.

    Returns:
        A scalar.
    """
    _check(hnet, task_id, (targets, prev_theta, prev_task_embs), mnet, inds_of_out_heads)
    for argument, value in (("dTembs", dTembs), ("reg_scaling", reg_scaling)):
        require(value is None or len(value) >= task_id, f"{argument}: wanted one for each task.")
    ids = list(range(task_id))
    if batch_size is not None and 0 < batch_size < task_id:
        ids = np.random.choice(task_id, size=batch_size, replace=False).tolist()
    weights = _moved(hnet, dTheta, dTembs)
    now = hnet.forward(cond_id=ids, weights=weights, ret_format="sequential")
    if targets is not None:
        old = [targets[i] for i in ids]
    else:
        old = _generated(hnet, ids, {"uncond_weights": prev_theta, "cond_weights": prev_task_embs})
    terms = []
    for place, i in enumerate(ids):
        heads = None if inds_of_out_heads is None else inds_of_out_heads[i]
        squares = (_flat(old[place], mnet, heads) - _flat(now[place], mnet, heads)).square()
        if fisher_estimates is not None:
            shapes = [[t.shape for t in each] for each in (fisher_estimates[i], now[place])]
            require(shapes[0] == shapes[1], f"fisher_estimates[{i}]: wanted the weights' shapes.")
            squares = squares * _flat(fisher_estimates[i], mnet, heads)
        terms.append(squares.sum() * (1.0 if reg_scaling is None else reg_scaling[i]))
    return torch.stack(terms).sum() / len(ids)


def _moved(hnet: Any, dTheta: Weights | None, dTembs: Weights | None) -> dict[str, Any]:
    """Return the learned parameters after the changes that are given."""
    weights: dict[str, Any] = {"uncond_weights": hnet.unconditional_params}
    if dTheta is not None:
        weights["uncond_weights"] = hnet.add_to_uncond_params(dTheta)
    if dTembs is not None:
        held = hnet.conditional_params
        weights["cond_weights"] = hnet.add_to_uncond_params(dTembs, params=held)
    return weights


def _check(hnet: Any, task_id: int, old: tuple[Any, Any, Any], mnet: Any, heads: Any) -> None:
    targets, theta, embs = old
    require(isinstance(hnet, HyperNetInterface), "hnet: wanted a hypernetwork.")
    require(task_id > 0, f"task_id: got {task_id}; wanted at least 1.")
    require(bool(hnet.unconditional_params), "hnet: holds no shared parameters.")
    if targets is not None:
        text = f"targets: got {len(targets)}; wanted one for each of {task_id} tasks."
        require(len(targets) == task_id, text)
        text = "targets: cannot be given together with prev_theta or prev_task_embs."
        require(theta is None and embs is None, text)
    else:
        text = "targets: wanted, or prev_theta and prev_task_embs together."
        require(theta is not None and embs is not None, text)
    if heads is not None:
        require(mnet is not None, "mnet: wanted with inds_of_out_heads.")
        require(len(heads) >= task_id, "inds_of_out_heads: wanted one for each task.")


def _generated(hnet: Any, ids: list[int], weights: Any) -> list[list[Tensor]]:
    """Generate for some tasks in eval mode, without gradients."""
    mode = hnet.training
    hnet.eval()
    try:
        with torch.no_grad():
            made = hnet.forward(cond_id=ids, weights=weights, ret_format="sequential")
    finally:
        hnet.train(mode)
    return [[t.detach() for t in sample] for sample in made]


def _flat(weights: Weights, mnet: Any, heads: list[int] | None) -> Tensor:
    if heads is not None:
        return flatten_and_remove_out_heads(mnet, weights, heads)
    return torch.cat([w.reshape(-1) for w in weights])


def flatten_and_remove_out_heads(mnet: Any, weights: Weights, allowed_outputs: list[int]) -> Tensor:
    """Join a target's weights into one vector, without those of other output neurons.

    Args:
        mnet: The target, whose output layer is fully connected.
        weights: Its weights.
        allowed_outputs: The output neurons that stay.

    Raises:
        NotImplementedError: It cannot be told which weights are those of the output layer.
    """
    masks = mnet.get_output_weight_mask(out_inds=allowed_outputs)
    places = list(range(len(masks)))
    if len(weights) != len(masks):
        if mnet.hyper_shapes_learned_ref is None:
            raise NotImplementedError("mnet: does not tell which weights are generated.")
        places = list(mnet.hyper_shapes_learned_ref)
    pairs = [(w, masks[i]) for w, i in zip(weights, places, strict=True)]
    return torch.cat([(w if mask is None else w[mask]).flatten() for w, mask in pairs])
