"""Initialisations against 0.0.4 where it is right, and against the formulas."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.compat.hypnettorch_building import QUIET
from tests.compat.hypnettorch_libraries import OURS, THEIRS

mnets = pytest.importorskip("hypnettorch.mnets")

# The tensors of an MLP 30-40-20 with batch norm, in hypnettorch's order.
NORMED = [[40], [40], [40, 30], [40], [20, 40], [20]]
GROWING = [[40, 30], [40]]  # 0.0.4 divides by zero where a layer has fewer outputs than inputs
WIDE = [[40, 30], [40], [20, 10, 3, 3], [20], [60, 40], [60]]


# Arguments of the two initialisations. Harmonic has tests of its own: 0.0.4 is wrong there.
NAMED = {"weight": 3.0, "bias": 0.5, "bn_scale": 0.25, "bn_shift": 0.75}
LISTED = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
HYPERFANS: dict[str, dict[str, Any]] = {
    "default": {},
    "out": {"method": "out"},
    "xavier": {"use_xavier": True},
    "out xavier": {"method": "out", "use_xavier": True},
    "variances": {"uncond_var": 3.0, "cond_var": 0.2},
    "other variances": {"uncond_var": 0.1, "cond_var": 5.0},
    "net": {"mnet": "norm"},
    "net out": {"mnet": "norm", "method": "out"},
    "net named": {"mnet": "norm", "w_val": NAMED, "w_var": NAMED, "b_val": NAMED, "b_var": NAMED},
    "net half": {"mnet": "norm", "w_val": {"bn_scale": 2.0}, "b_var": {"bn_shift": 0.5}},
    "listed": {"w_val": LISTED, "w_var": LISTED, "b_val": LISTED, "b_var": LISTED},
    "harmonic": {"method": "harmonic"},
    "harmonic xavier": {"method": "harmonic", "use_xavier": True},
}
CHUNKED_HYPERFANS: dict[str, dict[str, Any]] = {
    "default": {},
    "out": {"method": "out", "cond_var": 1e-3},
    "out xavier": {"method": "out", "use_xavier": True, "uncond_var": 1e-3, "cond_var": 1e-4},
    "xavier": {"use_xavier": True, "uncond_var": 1e-4},
    "clipped": {"cond_var": 10.0, "uncond_var": 10.0, "eps": 0.5},
    "clipped in part": {"cond_var": 1e-3, "eps": 0.03},
    "normal": {"cemb_normal_init": True, "cond_var": 1e-3},
    "normal out": {"cemb_normal_init": True, "cond_var": 1e-3, "method": "out"},
    "net": {"mnet": "norm", "cond_var": 1e-3},
    "net named": {"mnet": "norm", "cond_var": 1e-3, "target_vars": {"bn_scale": 0.3}},
    "listed": {"cond_var": 1e-3, "target_vars": [0.1, 0.2, None, 0.4, 0.5, 0.6]},
    "harmonic": {"method": "harmonic", "cond_var": 1e-3},
    "harmonic xavier": {"method": "harmonic", "use_xavier": True, "cond_var": 1e-3},
}


def with_net(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Put a network in, whose six tensors are those of `NORMED`."""
    if "mnet" not in kwargs:
        return kwargs
    net = mnets.MLP(
        n_in=30,
        n_out=20,
        hidden_layers=(40,),
        use_batch_norm=True,
        no_weights=True,
        verbose=False,
    )
    return {**kwargs, "mnet": net}


def filled(lib: Any, kwargs: dict[str, Any], shapes: list[list[int]] = NORMED) -> Any:
    """Build a hypernetwork and fill it."""
    torch.manual_seed(0)
    hnet = lib.HMLP(shapes, uncond_in_size=4, cond_in_size=12, layers=(200,), **QUIET)
    hnet.apply_hyperfan_init(**with_net(kwargs))
    return hnet


def filled_chunked(lib: Any, kwargs: dict[str, Any], shapes: list[list[int]] = NORMED) -> Any:
    """Build a chunked hypernetwork and fill it."""
    torch.manual_seed(0)
    hnet = lib.ChunkedHMLP(
        shapes, 250, chunk_emb_size=800, uncond_in_size=4, cond_in_size=12, layers=(9,), **QUIET
    )
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        hnet.apply_chunked_hyperfan_init(**with_net(kwargs))
    return hnet


def close_moments(mine: Tensor, other: Tensor, what: object) -> None:
    """Compare means and mean squares of two sets of draws: five standard errors."""
    mine, other = mine.detach().double(), other.detach().double()
    for a, b in ((mine, other), (mine.square(), other.square())):
        error = (a.var() / a.numel() + b.var() / b.numel()).sqrt() if a.numel() > 1 else 0.0
        assert float((a.mean() - b.mean()).abs()) <= 5 * float(error) + 1e-9, what


@pytest.mark.parametrize("name", [name for name in HYPERFANS if "harmonic" not in name])
def test_hyperfan_draws_from_the_same_distributions(name: str) -> None:
    other, mine = (filled(lib, HYPERFANS[name]) for lib in (THEIRS, OURS))
    sizes = [int(np.prod(s)) for s in NORMED]
    lasts = [[h.layer_weight_tensors[-1], h.layer_bias_vectors[-1]] for h in (mine, other)]
    for a, b in zip(*lasts, strict=True):
        for i, (x, y) in enumerate(zip(a.split(sizes), b.split(sizes), strict=True)):
            close_moments(x, y, (i, list(x.shape)))
    close_moments(mine.layer_weight_tensors[0], other.layer_weight_tensors[0], "trunk")
    assert not bool(mine.layer_bias_vectors[0].any())


@pytest.mark.parametrize("name", [name for name in CHUNKED_HYPERFANS if "harmonic" not in name])
def test_chunked_hyperfan_draws_from_the_same_distributions(name: str) -> None:
    other, mine = (filled_chunked(lib, CHUNKED_HYPERFANS[name]) for lib in (THEIRS, OURS))
    pairs = zip(mine.get_chunk_emb(), other.get_chunk_emb(), strict=True)
    for i, (a, b) in enumerate(pairs):
        close_moments(a, b, i)
        # Uniform draws have kurtosis 1.8, normal ones 3.
        for each in (a, b):
            kurtosis = float(each.detach().pow(4).mean() / each.detach().square().mean() ** 2)
            assert (kurtosis > 2.4) is ("normal" in name)
    for a, b in zip(mine.layer_weight_tensors, other.layer_weight_tensors, strict=True):
        close_moments(a, b, "weights")
    assert not any(bool(b.any()) for b in mine.layer_bias_vectors)


@pytest.mark.parametrize("xavier", [False, True])
def test_harmonic_is_the_harmonic_mean_and_theirs_is_not(xavier: bool) -> None:
    gain = 1.0 if xavier else 2.0
    kwargs = {"method": "harmonic", "use_xavier": xavier}
    head = GROWING[0]
    for lib, right in ((OURS, True), (THEIRS, False)):
        weight = filled(lib, kwargs, GROWING).layer_weight_tensors[-1].detach()[: 40 * 30]
        found = float(weight.square().mean()) * 200
        var_in, var_out = gain / (2 * head[1]), gain / head[0]
        mean = 2 / (1 / var_in + 1 / var_out)
        assert (abs(found / mean - 1) < 0.05) is right
        assert right or found > 1e6 * mean


@pytest.mark.parametrize("xavier", [False, True])
def test_chunked_harmonic_is_the_harmonic_mean(xavier: bool) -> None:
    gain = 1.0 if xavier else 2.0
    kwargs = {"method": "harmonic", "use_xavier": xavier, "cond_var": 1e-3, "uncond_var": 1e-3}
    # The first of 250 numbers are of the (40, 30) tensor alone: inputs of 16, embeddings of 800.
    wanted = 2 * gain / (30 + 40)
    for lib, right in ((OURS, True), (THEIRS, False)):
        found = float(
            filled_chunked(lib, kwargs, GROWING).get_chunk_emb()[0].detach().square().mean()
        )
        made = (800 * found + 16 * 1e-3) / 816
        assert (abs(made / wanted - 1) < 5 * 0.9 / 800**0.5) is right


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
