"""Initialisations against 0.0.4 where it is right, and against the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.compat.hypnettorch_building import QUIET
from tests.compat.hypnettorch_libraries import OURS, THEIRS

WIDE = [[40, 30], [40], [20, 10, 3, 3], [20], [60, 40], [60]]


def head_variances(hnet: Any) -> list[float]:
    sizes = [int(np.prod(s)) for s in hnet.target_shapes]
    cuts = hnet.layer_weight_tensors[-1].detach().split(sizes)
    return [float(cut.square().mean()) for cut in cuts]


@pytest.mark.parametrize("xavier", [False, True])
@pytest.mark.parametrize("method", ["in", "out"])
def test_hyperfan_has_the_same_variances(method: str, xavier: bool) -> None:
    shapes = [s for s in WIDE if len(s) != 4 and s != [20]]  # biases of convolutions: see below
    found = []
    for lib in (THEIRS, OURS):
        torch.manual_seed(0)
        hnet = lib.HMLP(shapes, uncond_in_size=4, cond_in_size=4, layers=(64,), **QUIET)
        hnet.apply_hyperfan_init(method, xavier, uncond_var=2.0, cond_var=0.5)
        found.append(head_variances(hnet))
        assert not any(bool(b.any()) for b in hnet.layer_bias_vectors)
    np.testing.assert_allclose(found[1], found[0], rtol=0.12, atol=1e-12)
    assert found[0][0] > 0


@pytest.mark.parametrize("method", ["in", "out", "harmonic"])
def test_hyperfan_generates_the_variance_that_it_promises(method: str) -> None:
    torch.manual_seed(0)
    hnet = OURS.HMLP(WIDE, cond_in_size=50, num_cond_embs=200, layers=(400,), **QUIET)
    hnet.apply_hyperfan_init(method)
    with torch.no_grad():
        made = hnet.forward(cond_id=list(range(200)), ret_format="sequential")
    wanted_in = [2 / (2 * 30), 1.0, 2 / (2 * 90), 1.0, 2 / (2 * 40), 1.0]
    wanted_out = [2 / 40, 2 * (1 - 30 / 40), 2 / 180, 2 * (1 - 90 / 180), 2 / 60, 2 * (1 - 40 / 60)]
    pairs = list(zip(wanted_in, wanted_out, strict=True))
    wanted = {
        "in": wanted_in,
        "out": wanted_out,
        # 0.0.4 computes 2 (1/in + 1/out) under this name.
        "harmonic": [2 / (1 / a + 1 / b) for a, b in pairs],
    }[method]
    for i, variance in enumerate(wanted):
        found = torch.stack([sample[i] for sample in made]).square().mean()
        assert abs(float(found) / variance - 1) < 0.2, (i, float(found), variance)


def test_hyperfan_options() -> None:
    shapes = [[6, 5], [6], [6], [6], [7, 3]]
    meta = [
        {"name": "weight", "layer": 1},
        {"name": "bias", "layer": 1},
        {"name": "bn_scale", "layer": 2},
        {"name": "bn_shift", "layer": 2},
        {"name": "embedding", "layer": -1},
    ]
    net = type("Net", (), {"param_shapes_meta": meta, "hyper_shapes_learned_ref": None})()
    hnet = OURS.HMLP(shapes, layers=(30,), **QUIET)
    hnet.apply_hyperfan_init(
        mnet=net,
        w_val={"weight": 3.0, "bn_shift": 0.5},
        w_var={"weight": 0.0},
        b_val={"weight": 1.0},
        b_var={"weight": 0.0},
    )
    rows = hnet.layer_weight_tensors[-1].detach().split([30, 6, 6, 6, 21])
    biases = hnet.layer_bias_vectors[-1].detach().split([30, 6, 6, 6, 21])
    assert bool((rows[0] == 3.0).all())
    assert bool((biases[0] == 1.0).all())
    assert float(rows[1].std()) > 0
    assert not bool(biases[1].any())
    assert not bool(rows[2].any())
    assert bool((biases[2] == 1.0).all())
    assert bool((rows[3] == 0.5).all())
    assert not bool(biases[3].any())
    assert not bool(rows[4].any())
    assert 0.4 < float(biases[4].square().mean()) < 2.0
    hnet.apply_hyperfan_init(
        w_val=[1.0, *[None] * 4],
        w_var=[0.0, *[None] * 4],
        b_val=[0.0, *[None] * 4],
        b_var=[0.0, *[None] * 4],
    )
    assert bool((hnet.layer_weight_tensors[-1].detach()[:30] == 1.0).all())


@pytest.mark.parametrize("method", ["in", "out"])
def test_chunked_hyperfan_has_the_same_variances(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for lib in (THEIRS, OURS):
        torch.manual_seed(0)
        hnet = lib.ChunkedHMLP(WIDE, 500, chunk_emb_size=400, cond_in_size=4, layers=(20,), **QUIET)
        hnet.apply_chunked_hyperfan_init(method, cond_var=1e-3, target_vars={"bias": 0.3})
        found.append(hnet.get_chunk_emb().detach().square().mean(1))
    np.testing.assert_allclose(found[1], found[0], rtol=0.25)
    hnet.apply_chunked_hyperfan_init(cond_var=1e-3, cemb_normal_init=True)
    with pytest.warns(UserWarning, match="clipped|below"):
        hnet.apply_chunked_hyperfan_init(cond_var=1e3)
