"""Parameters of the hypernetwork itself, handed in from outside."""

from __future__ import annotations

from collections.abc import Callable
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

# 0.0.4 stops in both: half of the parameters from outside (`append` to `None`), spectral norm.
WHOLE: dict[str, Callable[..., Any]] = {
    "HMLP": small,
    "HMLP unconditional": lambda lib, **kwargs: small(lib, uncond_in_size=2, **kwargs),
    "ChunkedHMLP": small_chunked,
    "ChunkedHMLP own": lambda lib, **kwargs: small_chunked(lib, cond_chunk_embs=True, **kwargs),
    "StructuredHMLP": lambda lib, **kwargs: structured("", **kwargs).make(lib),
    "StructuredHMLP own": lambda lib, **kwargs: structured("", cond_chunk_embs=True, **kwargs).make(
        lib
    ),
}
HALVES: dict[str, Callable[[Any], Any]] = {
    f"{name}, {half}": lambda lib, make=make, half=half: make(lib, **{half: True})
    for half in ("no_uncond_weights", "no_cond_weights")
    for name, make in WHOLE.items()
}
SPECTRAL: dict[str, Callable[..., Any]] = {
    f"{name}, {layers}": lambda lib, make=make, layers=layers, **kwargs: make(
        lib, layers=layers, **{"use_spectral_norm": True, **kwargs}
    )
    for name, make in {"HMLP": small, "ChunkedHMLP": small_chunked}.items()
    for layers in ((6,), (5, 4))
}


@pytest.mark.parametrize("name", HALVES)
def test_half_of_the_parameters_from_outside(name: str) -> None:
    with pytest.raises(AttributeError):
        HALVES[name](THEIRS)
    half, full = HALVES[name](OURS), WHOLE[name.partition(",")[0]](OURS)
    kept = set(half.internal_params_ref)
    outside = [p for i, p in enumerate(full.internal_params) if i not in kept]
    assert [list(p.shape) for p in outside] == half.hyper_shapes_learned
    with torch.no_grad():
        for own, index in zip(half.internal_params, half.internal_params_ref, strict=True):
            own.copy_(full.internal_params[index])
    inputs: dict[str, Any] = {"cond_id": [1, 2], "ret_format": "flattened"}
    if "unconditional" in name:
        inputs["uncond_input"] = torch.randn(2, 2)
    made = half.forward(weights=outside, **inputs)
    torch.testing.assert_close(made, full.forward(**inputs))


@pytest.mark.parametrize("name", SPECTRAL)
def test_spectral_norm(name: str) -> None:
    with pytest.raises(NotImplementedError):
        SPECTRAL[name](THEIRS)
    hnet, plain = SPECTRAL[name](OURS), SPECTRAL[name](OURS, use_spectral_norm=False)
    plain.load_state_dict(hnet.state_dict())
    with torch.no_grad():
        for weight in plain.layer_weight_tensors[:-1]:
            weight /= torch.linalg.svdvals(weight)[0]
    wanted = plain.forward(cond_id=[0, 1], ret_format="flattened")
    torch.testing.assert_close(hnet.forward(cond_id=[0, 1], ret_format="flattened"), wanted)


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
