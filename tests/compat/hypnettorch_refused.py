"""Calls that both libraries refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.compat import hypnettorch_cases as cases
from tests.compat.hypnettorch_building import QUIET, SHAPES, in_order, small, small_chunked

REFUSED: dict[str, Callable[[Any], Any]] = {
    "format": lambda lib: small(lib).forward(cond_id=0, ret_format="flat"),
    "no input": lambda lib: small(lib).forward(),
    "two conditions": lambda lib: small(lib).forward(cond_id=0, cond_input=torch.zeros(1, 3)),
    "no batch": lambda lib: small(lib).forward(cond_input=torch.zeros(3)),
    "width": lambda lib: small(lib).forward(cond_input=torch.zeros(2, 4)),
    "unconditional width": lambda lib: small(lib, uncond_in_size=2).forward(
        cond_id=0, uncond_input=torch.zeros(1, 3)
    ),
    "no unconditional input": lambda lib: small(lib, uncond_in_size=2).forward(cond_id=0),
    "batches": lambda lib: small(lib, uncond_in_size=2).forward(
        cond_id=[0, 1], uncond_input=torch.zeros(3, 2)
    ),
    "id too large": lambda lib: small(lib).forward(cond_id=4),
    "id below 0": lambda lib: small(lib).forward(cond_id=[0, -1]),
    "id of another type": lambda lib: small(lib).forward(cond_id=torch.tensor(0)),
    "ids without embeddings": lambda lib: small(
        lib, cond_in_size=0, num_cond_embs=0, uncond_in_size=2
    ).forward(cond_id=0, uncond_input=torch.zeros(1, 2)),
    "number of weights": lambda lib: small(lib).forward(cond_id=0, weights=[torch.zeros(3)]),
    "keys of weights": lambda lib: small(lib).forward(cond_id=0, weights={"theta": []}),
    "number of uncond_weights": lambda lib: small(lib).forward(
        cond_id=0, weights={"uncond_weights": []}
    ),
    "number of cond_weights": lambda lib: small(lib).forward(
        cond_id=0, weights={"cond_weights": []}
    ),
    "no shapes": lambda lib: lib.HMLP([], **QUIET),
    "dropout": lambda lib: small(lib, dropout_rate=1.5),
    "embedding": lambda lib: small(lib).get_cond_in_emb(4),
    "embedding of a type": lambda lib: small(lib).get_cond_in_emb("0"),
    "method": lambda lib: small(lib).apply_hyperfan_init(method="both"),
    "perturbations": lambda lib: small(lib).add_to_uncond_params([torch.zeros(1)]),
    "source format": lambda lib: small(lib).convert_out_format([], "flat", "squeezed"),
    "chunked: fixed output": lambda lib: small_chunked(lib, cond_in_size=0, num_cond_embs=0),
    "chunked: no conditions": lambda lib: small_chunked(lib, cond_chunk_embs=True, num_cond_embs=0),
    "chunked: chunk_embs": lambda lib: small_chunked(lib).forward(
        cond_input=torch.zeros(2, 3), weights={"chunk_embs": torch.zeros(2, 5, 8)}
    ),
    "chunked: shape of chunk_embs": lambda lib: small_chunked(lib, cond_chunk_embs=True).forward(
        cond_input=torch.zeros(2, 3), weights={"chunk_embs": torch.zeros(2, 4, 8)}
    ),
    "chunked: chunk_embs and id": lambda lib: small_chunked(lib, cond_chunk_embs=True).forward(
        cond_id=[0, 1], weights={"chunk_embs": torch.zeros(2, 5, 8)}
    ),
    "chunked: cond_input alone": lambda lib: small_chunked(lib, cond_chunk_embs=True).forward(
        cond_input=torch.zeros(2, 3)
    ),
    "chunked: id": lambda lib: small_chunked(lib, cond_chunk_embs=True).forward(cond_id=7),
    "chunked: chunk": lambda lib: small_chunked(lib).get_chunk_emb(chunk_id=9),
    "chunked: condition": lambda lib: small_chunked(lib).get_chunk_emb(chunk_id=0, cond_id=0),
    "chunked: no condition": lambda lib: small_chunked(lib, cond_chunk_embs=True).get_chunk_emb(),
    "chunked: hyperfan with batch norm": lambda lib: small_chunked(
        lib, use_batch_norm=True
    ).apply_chunked_hyperfan_init(),
    "container: nothing": lambda lib: lib.HContainer(SHAPES, None),
    "container: no hnets": lambda lib: lib.HContainer(SHAPES, None, hnets=[]),
    "container: names": lambda lib: lib.HContainer(
        SHAPES, None, uncond_param_shapes=[[1]], uncond_param_names=["weight", "bias"]
    ),
    "container: no id": lambda lib: cases._mixed(lib).forward(),
    "container: numbers of conditions": lambda lib: cases._mixed(lib, num_cond_embs=4),
    "container: shapes": lambda lib: lib.HContainer(
        [[2]], lambda o, s, c: s, uncond_param_shapes=[[3]]
    ).forward(),
    "container: distilled": lambda lib: cases._plain(lib).forward(cond_id=0, distilled_params=[]),
    "wrapper: no handler": lambda lib: lib.HPerturbWrapper(small(lib), **QUIET),
    "wrapper: no hypernetwork": lambda lib: lib.HPerturbWrapper(nn.Linear(2, 2), 2, **QUIET),
    "wrapper: no input": lambda lib: lib.HPerturbWrapper(
        small(lib, uncond_in_size=2), 2, **QUIET
    ).forward(cond_id=0),
    "wrapper: width": lambda lib: lib.HPerturbWrapper(
        small(lib, uncond_in_size=2), 2, **QUIET
    ).forward(cond_id=0, uncond_input=torch.zeros(1, 4)),
    "structured: zero chunks": lambda lib: lib.StructuredHMLP(
        [[3]], [[[3]]], [0], 2, {}, in_order, **QUIET
    ),
    "structured: kwargs": lambda lib: lib.StructuredHMLP(
        [[3]], [[[3]]], [1], 2, {"num_cond_embs": 1}, in_order, **QUIET
    ),
    "structured: no embedding": lambda lib: lib.StructuredHMLP(
        [[3], [3]], [[[3]]], [2], 0, {}, in_order, **QUIET
    ),
    "structured: fixed output": lambda lib: lib.StructuredHMLP(
        [[3]], [[[3]]], [1], 2, {}, in_order, cond_in_size=0, num_cond_embs=0, **QUIET
    ),
    "regulariser: task": lambda lib: lib.calc_fix_target_reg(small(lib), 0),
    "regulariser: targets": lambda lib: lib.calc_fix_target_reg(small(lib), 2, targets=[[]]),
    "regulariser: heads": lambda lib: lib.calc_fix_target_reg(
        small(lib), 1, targets=[[]], inds_of_out_heads=[[0]]
    ),
    "regulariser: half of the past": lambda lib: lib.calc_fix_target_reg(
        small(lib), 1, prev_theta=[]
    ),
    "helper: module": lambda lib: lib.init_conditional_embeddings(nn.Linear(1, 1)),
    "helper: id": lambda lib: lib.get_conditional_parameters(small(lib), 4),
    "examples: module": lambda lib: lib.resnet_chunking(nn.Linear(1, 1)),
    "examples: wide": lambda lib: lib.wrn_chunking(nn.Linear(1, 1)),
    "mask": lambda lib: small_chunked(lib).get_output_weight_mask(),
    "task embedding": lambda lib: small_chunked(lib, cond_chunk_embs=True).get_task_emb(0),
}
