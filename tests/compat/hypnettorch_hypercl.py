"""hypnettorch's example script for continual learning, as far as it uses the library.

Written anew, on data small enough for a test: the arguments that it parses, what it makes from
them, and what a step of training and testing does. `lib` has `get_hypernet` and the module
`hnet_regularizer` of hypnettorch or of the door; the rest is hypnettorch's in both.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import hypnettorch.utils.cli_args as cli
import hypnettorch.utils.torch_utils as tutils
import torch
import torch.nn.functional as F
from hypnettorch.mnets.mlp import MLP
from torch import Tensor

Task = tuple[Tensor, Tensor]


def arguments(*given: str) -> argparse.Namespace:
    """Parse as the script does, the parts that choose the hypernetwork and the training."""
    parser = argparse.ArgumentParser()
    cli.cl_args(
        parser,
        show_beta=True,
        dbeta=0.01,
        show_num_tasks=True,
        dnum_tasks=3,
        show_num_classes_per_task=True,
        dnum_classes_per_task=2,
        show_calc_hnet_reg_targets_online=True,
        show_hnet_reg_batch_size=True,
    )
    cli.train_args(
        parser,
        show_lr=True,
        dlr=1e-3,
        dbatch_size=16,
        dn_iter=12,
        show_adam_beta1=True,
        dadam_beta1=0.9,
        show_momentum=True,
    )
    cli.hnet_args(
        parser,
        allowed_nets=["chunked_hmlp", "hmlp"],
        dhmlp_arch="20,20",
        show_cond_emb_size=True,
        dcond_emb_size="8",
        dchmlp_chunk_size=75,
        dchunk_emb_size=8,
        show_use_cond_chunk_embs=True,
        show_net_act=True,
        dnet_act="relu",
        show_no_bias=True,
        show_dropout_rate=True,
        ddropout_rate=-1,
        show_specnorm=False,
        show_batchnorm=False,
        show_no_batchnorm=False,
    )
    return parser.parse_args(list(given))


def tasks(num: int) -> list[Task]:
    """Return tasks of two classes each, one-hot; the classes are two corners of a cube."""
    draws = torch.Generator().manual_seed(0)
    made = []
    for _ in range(num):
        corners = torch.randn(2, 12, generator=draws)
        labels = torch.randint(2, (96,), generator=draws)
        x = corners[labels] + 0.3 * torch.randn(96, 12, generator=draws)
        made.append((x.double(), F.one_hot(labels, 2).double()))
    return made


def hypercl(lib: Any, config: argparse.Namespace, start: Any = None) -> Any:
    """Learn the tasks in sequence; return what was measured, and the start as a state dict."""
    device = torch.device("cpu")
    net_options: Any = {"n_in": 12, "n_out": 2, "hidden_layers": [10, 10], "no_weights": True}
    mnet: Any = MLP(**net_options, verbose=False).to(device)
    hnet = lib.get_hypernet(
        config, device, config.hnet_type, mnet.param_shapes, config.num_tasks, verbose=False
    )
    # Adam divides by the size of a gradient: in float32, rounding becomes visible in steps.
    hnet = hnet.double()
    if start is not None:
        hnet.load_state_dict(start)
    made = SimpleNamespace(
        start={key: value.clone() for key, value in hnet.state_dict().items()},
        losses=[],
        accuracy=[],
        norms=[],
    )
    data = tasks(config.num_tasks)
    for task in range(config.num_tasks):
        _train(lib, task, data[task], mnet, hnet, config, made)
        made.accuracy.append([_test(one, i, mnet, hnet) for i, one in enumerate(data[: task + 1])])
        squares = [p.detach().double().square().sum() for p in hnet.parameters()]
        made.norms.append(float(torch.stack(squares).sum().sqrt()))
    made.end = {key: value.clone() for key, value in hnet.state_dict().items()}
    return made


def _train(
    lib: Any, task: int, data: Task, mnet: Any, hnet: Any, config: Any, made: SimpleNamespace
) -> None:
    mnet.train()
    hnet.train()
    regularised = task > 0 and config.beta > 0
    targets = before = embeddings = None
    if regularised and config.calc_hnet_reg_targets_online:
        before = [p.detach().clone() for p in hnet.unconditional_params]
        embeddings = [p.detach().clone() for p in hnet.conditional_params]
    elif regularised:
        targets = lib.hnet_regularizer.get_current_targets(task, hnet)
    optimizer: Any = tutils.get_optimizer(
        hnet.parameters(),
        config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        use_adam=True,
        adam_beta1=config.adam_beta1,
    )
    draws = torch.Generator().manual_seed(task)
    for _ in range(config.n_iter):
        optimizer.zero_grad()
        rows = torch.randint(len(data[0]), (config.batch_size,), generator=draws)
        x, wanted = data[0][rows], data[1][rows]
        weights = hnet.forward(cond_id=task)
        predicted = mnet.forward(x, weights=weights)
        loss = F.cross_entropy(predicted, wanted.argmax(dim=1), reduction="mean")
        if regularised:
            loss = loss + config.beta * lib.hnet_regularizer.calc_fix_target_reg(
                hnet,
                task,
                targets=targets,
                mnet=mnet,
                prev_theta=before,
                prev_task_embs=embeddings,
                inds_of_out_heads=None,
                batch_size=config.hnet_reg_batch_size,
            )
        loss.backward()
        optimizer.step()
        made.losses.append(loss.item())


def _test(data: Task, task: int, mnet: Any, hnet: Any) -> float:
    mnet.eval()
    hnet.eval()
    with torch.no_grad():
        predicted = mnet.forward(data[0], weights=hnet.forward(cond_id=task))
    return float((data[1].argmax(dim=1) == predicted.argmax(dim=1)).float().mean())
