"""The output regulariser against that of 0.0.4."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.compat.hypnettorch_building import SHAPES, assert_close, pair_of, small, small_chunked
from tests.compat.hypnettorch_libraries import OURS, THEIRS

mnets = pytest.importorskip("hypnettorch.mnets")


def options(hnet: Any, targets: Any) -> list[dict[str, Any]]:
    """Return arguments for `calc_fix_target_reg` with three tasks before this one."""
    d_theta = [0.1 * torch.randn_like(p) for p in hnet.unconditional_params]
    d_embs = [0.1 * torch.randn_like(p) for p in hnet.conditional_params]
    fisher = [[torch.rand(s) for s in SHAPES] for _ in range(3)]
    old_theta = [p.detach() + 0.1 * torch.randn_like(p) for p in hnet.unconditional_params]
    old_embs = [p.detach() + 0.1 * torch.randn_like(p) for p in hnet.conditional_params]
    target_net = mnets.MLP(n_in=3, n_out=2, hidden_layers=(5,), no_weights=True, verbose=False)
    return [
        {"targets": targets, "dTheta": d_theta},
        {"targets": targets, "dTheta": d_theta, "dTembs": d_embs},
        {"targets": targets, "dTheta": d_theta, "fisher_estimates": fisher},
        {"targets": targets, "dTheta": d_theta, "reg_scaling": [0.5, 2.0, 0.0]},
        {
            "targets": targets,
            "dTheta": d_theta,
            "reg_scaling": [1.0, 0.0, 3.0],
            "batch_size": 3,
        },
        {"targets": targets, "dTheta": d_theta, "batch_size": 2},
        {"targets": targets, "dTheta": d_theta, "batch_size": 9},
        {"prev_theta": old_theta, "prev_task_embs": old_embs},
        {"prev_theta": old_theta, "prev_task_embs": old_embs, "batch_size": 1},
        {"prev_theta": old_theta, "prev_task_embs": old_embs, "dTheta": d_theta, "dTembs": d_embs},
        {
            "targets": targets,
            "dTheta": d_theta,
            "mnet": target_net,
            "inds_of_out_heads": [[0], [1], [0, 1]],
        },
        {
            "targets": targets,
            "dTheta": d_theta,
            "mnet": target_net,
            "inds_of_out_heads": [[1]] * 3,
            "fisher_estimates": fisher,
        },
    ]


@pytest.mark.parametrize("make", [small, small_chunked])
def test_regularizer(make: Any) -> None:
    other, mine = pair_of(make)
    targets = THEIRS.get_current_targets(3, other)
    found = OURS.get_current_targets(3, mine)
    for a, b in zip(found, targets, strict=True):
        for x, y in zip(a, b, strict=True):
            assert_close(x, y)
            assert not x.requires_grad
    assert OURS.get_current_targets(0, mine) == []
    for kwargs in options(other, targets):
        grads = []
        for lib, hnet in ((THEIRS, other), (OURS, mine)):
            np.random.seed(0)
            value = lib.calc_fix_target_reg(hnet, 3, **kwargs)
            params = list(hnet.internal_params)
            grads.append((value, torch.autograd.grad(value, params, allow_unused=True)))
        assert_close(grads[1][0], grads[0][0])
        assert float(grads[0][0].detach()) > 0
        for a, b in zip(grads[1][1], grads[0][1], strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert_close(a, b, tolerance=2e-5)
