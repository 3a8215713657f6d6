"""Calls of methods and functions that both libraries must answer alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.compat.hypnettorch_building import SHAPES, Case
from tests.compat.hypnettorch_cases import CASES

BY_NAME = {str(case): case for case in CASES}
REPRESENTATIVES = [
    BY_NAME[name]
    for name in (
        "HMLP-default",
        "HMLP-linear",
        "HMLP-no-bias",
        "ChunkedHMLP-default",
        "ChunkedHMLP-own-embeddings",
        "StructuredHMLP-default",
        "StructuredHMLP-own-embeddings",
        "HContainer-mixed",
        "HContainer-two",
        "HPerturbWrapper-default",
        "HPerturbWrapper-chunked",
    )
]


def ones(tensors: Any) -> list[Tensor]:
    return [torch.ones_like(p) for p in tensors]


def replaced(hnet: Any) -> list[Tensor]:
    """Overwrite all parameters; return them."""
    torch.manual_seed(3)
    hnet.overwrite_internal_params([torch.randn(s) for s in hnet.param_shapes])
    return list(hnet.internal_params)


def initialised(hnet: Any, **kwargs: Any) -> list[Tensor]:
    torch.manual_seed(3)
    hnet.custom_init(**kwargs)
    return list(hnet.internal_params)


def converted(hnet: Any, case: Case, source: str, wanted: str, num: int = 2) -> Any:
    made = seeded(lambda: hnet.forward(ret_format=source, **case.inputs(num)))
    return hnet.convert_out_format(made, source, wanted)


METHODS: dict[str, Callable[[Any, Case], Any]] = {
    "add": lambda h, case: h.add_to_uncond_params(ones(h.unconditional_params)),
    "add to given": lambda h, case: h.add_to_uncond_params([torch.ones(2)], [torch.ones(2)]),
    "add to many": lambda h, case: h.add_to_uncond_params(
        ones(h.unconditional_params), params=ones(h.unconditional_params)
    ),
    "flatten": lambda h, case: h.flatten_params(h.internal_params),
    "unflatten": lambda h, case: h.flatten_params(
        torch.arange(32.0), param_shapes=SHAPES, unflatten=True
    ),
    "unflatten others": lambda h, case: h.flatten_params(
        torch.arange(6.0), param_shapes=[[2, 2], [2]], unflatten=True
    ),
    "count": lambda h, case: h.shapes_to_num_weights(SHAPES),
    "count none": lambda h, case: h.shapes_to_num_weights([]),
    "embedding": lambda h, case: h.get_cond_in_emb(0),
    "another embedding": lambda h, case: h.get_cond_in_emb(2),
    "no such embedding": lambda h, case: h.get_cond_in_emb(99),
    "inner hypernetwork": lambda h, case: h.internal_hnet.param_shapes,
    "task embedding": lambda h, case: h.get_task_emb(0),
    "another task embedding": lambda h, case: h.get_task_emb(2),
    "task embeddings": lambda h, case: h.get_task_embs(),
    "weights": lambda h, case: h.weights,
    "chunk embeddings": lambda h, case: h.get_chunk_emb(),
    "chunk embedding": lambda h, case: h.get_chunk_emb(chunk_id=1),
    "another chunk embedding": lambda h, case: h.get_chunk_emb(3),
    "chunk embeddings of a condition": lambda h, case: h.get_chunk_emb(cond_id=2),
    "chunk embedding of a condition": lambda h, case: h.get_chunk_emb(chunk_id=4, cond_id=0),
    "sets of chunk embeddings": lambda h, case: h.get_chunk_embs(),
    "sets of a condition": lambda h, case: h.get_chunk_embs(cond_id=1),
    "sets of another condition": lambda h, case: h.get_chunk_embs(3),
    "overwrite": lambda h, case: replaced(h),
    "overwrite too few": lambda h, case: h.overwrite_internal_params([]),
    "init": lambda h, case: initialised(h),
    "init normal": lambda h, case: initialised(h, normal_init=True),
    "init normal wide": lambda h, case: initialised(h, normal_init=True, normal_std=0.5),
    "init without biases": lambda h, case: initialised(h, zero_bias=False),
    "init all": lambda h, case: initialised(h, normal_init=True, normal_std=2.0, zero_bias=False),
    "mask": lambda h, case: h.get_output_weight_mask(),
    "mask of two": lambda h, case: h.get_output_weight_mask(out_inds=[0, 3]),
    "mask there": lambda h, case: h.get_output_weight_mask([1], torch.device("cpu")),
    "mask of all there": lambda h, case: h.get_output_weight_mask(device="cpu"),
    "distillation": lambda h, case: h.distillation_targets(),
    "distilled": lambda h, case: h.forward(distilled_params=[], **case.inputs(1)),
    "distilled sequence": lambda h, case: h.forward(
        distilled_params=[], ret_format="sequential", **case.inputs(2)
    ),
    **{
        f"{source} to {wanted} ({num})": lambda h, case, a=source, b=wanted, n=num: converted(
            h, case, a, b, n
        )
        for source in ("flattened", "sequential", "squeezed")
        for wanted in ("flattened", "sequential", "squeezed")
        for num in (1, 2)
    },
}

# Where 0.0.4 does not do what it documents: from flat to lists it returns None, between lists it
# asserts, and a chunked one returns a bound method instead of the (absent) targets.
BETTER_HERE: dict[str, Callable[[Any, Case], Any]] = {
    "distillation": lambda h, case: None,
    **{
        f"{source} to {wanted} ({num})": lambda h, case, b=wanted, n=num: seeded(
            lambda: h.forward(ret_format=b, **case.inputs(n))
        )
        for source in ("flattened", "sequential", "squeezed")
        for wanted in ("sequential", "squeezed")
        for num in (1, 2)
        if source != wanted
    },
}


def seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(3)
    return make()


def fill(value: Tensor, index: int, cond_id: int = 7) -> None:
    """An `init_fct`: says where it was called."""
    nn.init.constant_(value, 1.0 + index + 0.1 * (cond_id or 0))


def held(lib: Any, hnet: Any, name: str, **kwargs: Any) -> list[Tensor]:
    """Fill embeddings by a helper function; return all parameters."""
    torch.manual_seed(3)
    getattr(lib, name)(hnet, **kwargs)
    return list(hnet.internal_params)


INPUTS, CHUNKS = "init_conditional_embeddings", "init_chunk_embeddings"
HELPERS: dict[str, Callable[[Any, Any], Any]] = {
    "inputs": lambda lib, h: held(lib, h, INPUTS),
    "inputs wide": lambda lib, h: held(lib, h, INPUTS, normal_std=3.0),
    "inputs moved": lambda lib, h: held(lib, h, INPUTS, normal_mean=2.0, normal_std=0.1),
    "inputs moved more": lambda lib, h: held(lib, h, INPUTS, normal_mean=-9.0),
    "inputs filled": lambda lib, h: held(lib, h, INPUTS, init_fct=fill),
    "inputs zero": lambda lib, h: held(
        lib, h, INPUTS, init_fct=lambda value, index: nn.init.zeros_(value)
    ),
    "chunks": lambda lib, h: held(lib, h, CHUNKS),
    "chunks wide": lambda lib, h: held(lib, h, CHUNKS, normal_std=3.0),
    "chunks moved": lambda lib, h: held(lib, h, CHUNKS, normal_mean=2.0, normal_std=0.1),
    "chunks moved more": lambda lib, h: held(lib, h, CHUNKS, normal_mean=-9.0),
    "chunks filled": lambda lib, h: held(lib, h, CHUNKS, init_fct=fill),
    "chunks zero": lambda lib, h: held(
        lib, h, CHUNKS, init_fct=lambda value, index, cond_id=None: nn.init.zeros_(value)
    ),
    "own parameters": lambda lib, h: lib.get_conditional_parameters(h, 0),
    "others' parameters": lambda lib, h: lib.get_conditional_parameters(h, cond_id=2),
}
