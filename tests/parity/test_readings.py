"""`readings`: the same names of what is generated, and the same numbers, in both backends."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import hyperloom.jax as hj
import hyperloom.torch as hl


def test_readings_are_root_mean_squares() -> None:
    torch.manual_seed(0)
    hnet = hl.HyperNetwork(nn.Linear(3, 2), condition=hl.Embedding(4, 3), trunk=hl.MLP(5))
    assert "gradients/heads.full.weight" not in hl.readings(hnet)
    hnet(torch.randn(4, 6, 3), condition=range(4)).square().mean().backward()
    read = hl.readings(hnet, range(4))
    assert all(type(value) is float for value in read.values())
    head = hnet.heads["full"].weight
    assert isinstance(head, nn.Parameter)
    assert head.grad is not None
    made = hnet.generate(range(4))["weight"].detach()
    wanted = {
        "parameters/heads.full.weight": head.detach(),
        "gradients/heads.full.weight": head.grad,
        "generated/weight": made,
        "spread/weight": made - made.mean(0),
    }
    for name, value in wanted.items():
        assert read[name] == pytest.approx(value.square().mean().sqrt().item(), rel=1e-5)
    assert not any(name.startswith("spread") for name in hl.readings(hnet, [1]))


def test_both_backends_read_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    hnet = hl.HyperNetwork(nn.Linear(3, 2), condition=hl.Embedding(4, 3), trunk=hl.MLP(5))
    hl.save(hnet, tmp_path / "x.safetensors")
    layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    twin = hj.load(
        tmp_path / "x.safetensors", layer, translate={"kernel": "weight", "bias": "bias"}
    )
    ours, theirs = hl.readings(hnet, range(4)), hj.readings(twin, [0, 1, 2, 3])
    spread = [read["spread/bias"] for read in (ours, theirs)]
    assert spread[0] == pytest.approx(spread[1], rel=1e-4)
    numbers = [sorted(v for n, v in r.items() if n.startswith("param")) for r in (ours, theirs)]
    np.testing.assert_allclose(*numbers, rtol=1e-4)
    gradients = {"heads.full.weight": jax.numpy.ones((2, 2))}
    assert hj.readings(twin, gradients=gradients)["gradients/heads.full.weight"] == 1.0


def test_what_is_no_hypernetwork_is_refused() -> None:
    for backend in (hl, hj):
        with pytest.raises(TypeError, match=r"^hnet: got 3; wanted a "):
            backend.readings(3)  # type: ignore[arg-type]
