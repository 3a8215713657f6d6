"""Methods and helper functions: the same calls give the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.compat.hypnettorch_building import pair_of, small, small_chunked, structured
from tests.compat.hypnettorch_cases import CONTAINERS, WRAPPERS
from tests.compat.hypnettorch_libraries import OURS, THEIRS


def test_helpers() -> None:
    for build in (small, small_chunked, lambda lib: small_chunked(lib, cond_chunk_embs=True)):
        other, mine = pair_of(build)
        for lib, hnet in ((THEIRS, other), (OURS, mine)):
            torch.manual_seed(0)
            lib.init_conditional_embeddings(hnet, 0.5, 0.1)
            lib.init_chunk_embeddings(hnet, -0.5, 0.2)
        for a, b in zip(mine.internal_params, other.internal_params, strict=True):
            assert torch.equal(a, b)
        for i in range(4):
            found = OURS.get_conditional_parameters(mine, i)
            wanted = THEIRS.get_conditional_parameters(other, i)
            assert [p.shape for p in found] == [p.shape for p in wanted]
            for a, b in zip(found, wanted, strict=True):
                assert torch.equal(a, b)


def test_helpers_with_functions_and_containers() -> None:
    seen: list[Any] = []

    def fill(value: Tensor, index: int, cond_id: int | None = None) -> None:
        seen.append((tuple(value.shape), index, cond_id))
        nn.init.constant_(value, 3.0)

    hnet = next(case for case in CONTAINERS if str(case) == "HContainer-two").build(OURS)
    OURS.init_conditional_embeddings(hnet, init_fct=fill)
    OURS.init_chunk_embeddings(hnet, init_fct=fill)
    inner = hnet.internal_hnets[1]
    assert len(seen) == 5 + 5 + 5 * inner.num_chunks
    assert bool((inner.get_chunk_emb(chunk_id=0, cond_id=4) == 3.0).all())
    # 0.0.4 returns None for a container; its documentation asks for the list.
    own = OURS.get_conditional_parameters(hnet, 2)
    assert [tuple(p.shape) for p in own] == [(8,), (8,), (inner.num_chunks, 8)]
    own_chunks = structured("", cond_chunk_embs=True).build(OURS)
    seen.clear()
    OURS.init_chunk_embeddings(own_chunks, init_fct=fill)
    assert seen[:2] == [((2, 4), 0, 0), ((3, 4), 1, 0)]
    assert len(OURS.get_conditional_parameters(own_chunks, 1)) == 3
    wrapped = WRAPPERS[0].build(OURS)
    assert len(OURS.get_conditional_parameters(wrapped, 1)) == 1


def test_deprecated_names() -> None:
    hnet = small(OURS)
    with pytest.warns(DeprecationWarning, match="instead of"):
        assert hnet.weights is hnet.internal_params
    with pytest.warns(DeprecationWarning, match="instead of"):
        assert len(hnet.get_task_embs()) == 4
    with pytest.warns(DeprecationWarning, match="instead of"):
        assert hnet.get_task_emb(2) is hnet.conditional_params[2]


def test_main_network_interface() -> None:
    other, mine = pair_of(lambda lib: small(lib, layers=()))
    masks = mine.get_output_weight_mask(out_inds=[1, 4])
    for a, b in zip(masks, other.get_output_weight_mask(out_inds=[1, 4]), strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.equal(a, b)
    new = [torch.randn_like(p) for p in mine.internal_params]
    mine.overwrite_internal_params(new)
    flat = mine.flatten_params(mine.internal_params)
    back = mine.flatten_params(flat, mine.param_shapes, unflatten=True)
    for a, b in zip(back, new, strict=True):
        assert torch.equal(a, b)
    mine.custom_init(normal_init=True, normal_std=0.0)
    assert not any(w.any() for w in (*mine.layer_weight_tensors, *mine.layer_bias_vectors))
    changed = mine.add_to_uncond_params([torch.ones_like(p) for p in mine.unconditional_params])
    assert all(bool((p == 1).all()) for p in changed)
