"""Parameters of the hypernetwork itself, handed in from outside."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.compat.hypnettorch_building import (
    PROPERTIES,
    assert_close,
    pair_of,
    small,
    small_chunked,
    structured,
)
from tests.compat.hypnettorch_libraries import OURS, THEIRS


def test_what_0_0_4_cannot_build_works_here() -> None:
    """Half of the parameters from outside: `append` to `None` there."""
    for lib, kwargs in (
        (OURS, {"no_uncond_weights": True}),
        (OURS, {"no_cond_weights": True}),
    ):
        with pytest.raises(AttributeError):
            small(THEIRS, **kwargs)
        full, half = small(lib), small(lib, **kwargs)
        outside = [
            p
            for p in full.internal_params
            if p.shape not in [q.shape for q in half.internal_params]
        ]
        assert [list(p.shape) for p in outside] == half.hyper_shapes_learned
        with torch.no_grad():
            for own, index in zip(half.internal_params, half.internal_params_ref, strict=True):
                own.copy_(full.internal_params[index])
        made = half.forward(cond_id=[1, 2], weights=outside, ret_format="flattened")
        wanted = full.forward(cond_id=[1, 2], ret_format="flattened")
        torch.testing.assert_close(made, wanted)


@pytest.mark.parametrize("make", [small, small_chunked])
def test_everything_from_outside(make: Any) -> None:
    options = {"no_uncond_weights": True, "no_cond_weights": True}
    other, mine = make(THEIRS, **options), make(OURS, **options)
    for name in PROPERTIES:
        assert getattr(mine, name, None) == getattr(other, name, None), name
    assert not list(mine.parameters())
    given = [torch.randn(shape, requires_grad=True) for shape in mine.hyper_shapes_learned]
    wanted = other.forward(cond_id=[3, 1], weights=given, ret_format="flattened")
    made = mine.forward(cond_id=[3, 1], weights=given, ret_format="flattened")
    assert_close(made, wanted)
    found = torch.autograd.grad(made.square().sum(), given, allow_unused=True)
    right = torch.autograd.grad(wanted.square().sum(), given, allow_unused=True)
    for a, b in zip(found, right, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert_close(a, b)


def test_chunk_embeddings_from_outside() -> None:
    other, mine = pair_of(lambda lib: small_chunked(lib, cond_chunk_embs=True))
    embs, x = torch.randn(6, 5, 8), torch.randn(6, 3)
    wanted = other.forward(cond_input=x, weights={"chunk_embs": embs}, ret_format="flattened")
    weights = {"chunk_embs": embs}
    made = mine.forward(cond_input=x, weights=weights, ret_format="flattened")
    assert_close(made, wanted)
    assert list(weights) == ["chunk_embs"]  # 0.0.4 takes it out of the caller's dict


def test_chunk_embeddings_of_a_structured_hypernetwork_from_outside() -> None:
    """0.0.4 fails on these; the embeddings of known conditions must give those conditions."""
    case = structured("", cond_chunk_embs=True)
    mine = case.build(OURS)
    embs = [
        torch.stack(each) for each in zip(*(mine.get_chunk_embs(i) for i in (2, 0)), strict=True)
    ]
    x = torch.stack([mine.get_cond_in_emb(i) for i in (2, 0)])
    made = mine.forward(cond_input=x, weights={"chunk_embs": embs}, ret_format="flattened")
    torch.testing.assert_close(made, mine.forward(cond_id=[2, 0], ret_format="flattened"))
