"""Hypernetworks of the door as modules: statistics, modes, precision, copies, prints."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from tests.compat.hypnettorch_building import (
    SHAPES,
    assert_close,
    in_order,
    pair_of,
    small,
    small_chunked,
    structured,
)
from tests.compat.hypnettorch_libraries import OURS


@pytest.mark.parametrize("make", [small, small_chunked])
def test_batch_norm_has_statistics_per_condition(make: Any) -> None:
    other, mine = pair_of(lambda lib: make(lib, use_batch_norm=True))
    for hnet in (other, mine):
        for layer in hnet.batchnorm_layers:
            layer.checkpoint_stats()
    for stats in (0, 1, 1, 0):
        inputs = {"cond_id": [0, 1, 2 + stats], "condition": stats, "ret_format": "flattened"}
        assert_close(mine.forward(**inputs), other.forward(**inputs))
    for a, b in zip(mine.batchnorm_layers, other.batchnorm_layers, strict=True):
        assert a.num_stats == int(b.num_stats) == 2
        for stats in (0, 1):
            for x, y in zip(a.get_stats(stats), b.get_stats(stats), strict=True):
                assert_close(x, y)
                assert float(x.std()) > 0
    mine.eval()
    other.eval()
    inputs = {"cond_id": [1], "condition": 1, "ret_format": "flattened"}
    assert_close(mine.forward(**inputs), other.forward(**inputs))
    with pytest.raises(ValueError, match="several sets of statistics"):
        mine.forward(cond_id=[1])
    assert set(mine.state_dict()) == set(other.state_dict())


def test_modes_reach_internal_hypernetworks() -> None:
    """`eval()` leaves dropout on in 0.0.4's containers, which do not register their members."""
    case = structured("", hmlp_kwargs={"layers": [50], "dropout_rate": 0.5})
    hnet = case.build(OURS).eval()
    flat = hnet.forward(cond_id=0, ret_format="flattened")
    torch.testing.assert_close(flat, hnet.forward(cond_id=0, ret_format="flattened"))
    hnet.train()
    assert not torch.equal(flat, hnet.forward(cond_id=0, ret_format="flattened"))


@pytest.mark.parametrize("num", [1, 3])
def test_formats_and_the_ways_between_them(num: int) -> None:
    hnet = small(OURS)
    ids = list(range(num))
    made = {
        f: hnet.forward(cond_id=ids, ret_format=f) for f in ("flattened", "sequential", "squeezed")
    }
    for source, given in made.items():
        for wanted in made:
            if "flattened" not in (source, wanted):
                continue  # 0.0.4 has no way between the two forms of lists either
            found = hnet.convert_out_format(given, source, wanted)
            torch.testing.assert_close(found, made[wanted])
    assert len(made["squeezed"]) == (4 if num == 1 else 3)


def test_double_precision_and_copies() -> None:
    hnet = small_chunked(OURS, cond_chunk_embs=True)
    wanted = hnet.forward(cond_id=[0, 3], ret_format="flattened")
    twin = copy.deepcopy(hnet)
    loaded = pickle.loads(pickle.dumps(hnet))
    for other in (twin, loaded):
        torch.testing.assert_close(other.forward(cond_id=[0, 3], ret_format="flattened"), wanted)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    torch.testing.assert_close(hnet.forward(cond_id=[0, 3], ret_format="flattened"), wanted)
    made = hnet.double().forward(cond_id=[0, 3], ret_format="flattened")
    assert made.dtype == torch.float64
    torch.testing.assert_close(made.float(), wanted)


@pytest.mark.parametrize("make", [small, small_chunked])
def test_parameters_start_filled(make: Any) -> None:
    """With as many embeddings as make a statistic: normal, as 0.0.4 documents."""
    torch.manual_seed(0)
    hnet = make(OURS, num_cond_embs=500)
    embeddings = torch.stack([hnet.get_cond_in_emb(i).detach() for i in range(500)])
    assert abs(float(embeddings.mean())) < 0.1
    assert abs(float(embeddings.std()) - 1) < 0.1
    for parameter in hnet.parameters():
        assert bool(torch.isfinite(parameter).all())
        assert float(parameter.detach().std()) > 0


def test_prints_unless_told_not_to(capsys: pytest.CaptureFixture[str]) -> None:
    inner = OURS.HMLP(SHAPES, uncond_in_size=2, layers=(3,))
    OURS.ChunkedHMLP(SHAPES, 7, layers=(3,))
    OURS.HPerturbWrapper(inner, 2)
    OURS.HContainer([[2]], lambda o, s, c: s, uncond_param_shapes=[[2]])
    OURS.StructuredHMLP([[3]], [[[3]]], [1], 2, {"layers": []}, in_order)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("HMLP: ")
    OURS.HContainer([[2]], lambda o, s, c: s, uncond_param_shapes=[[2]], verbose=False)
    OURS.HPerturbWrapper(inner, 2, verbose=False)
    assert not capsys.readouterr().out
