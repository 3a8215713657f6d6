"""Trunks and direct heads on JAX against the NumPy oracle and PyTorch, on the same parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import hyperloom.jax as hj
import hyperloom.torch as ht
from hyperloom.jax._tools.checkpoint import neutral_tensors
from hyperloom.torch._tools.checkpoint import neutral_tensors as torch_tensors
from tests._support.on_jax import shaken
from tests.on_jax.cases import mlp  # 50 numbers
from tests.parity.test_parity_jax import check, close, stub

CASES: dict[str, dict[str, Any]] = {
    "channels": {"trunk": hj.Deconv((5, 5, 2), (4, 3), 3), "layout": hj.Direct(50)},
    "even kernels": {"trunk": hj.Deconv((11, 6), (4, 3), (4, 2)), "layout": hj.Direct(66)},
    "kernels": {
        "trunk": hj.Deconv((9, 10), (8, 3, 2), (3, (1, 5), 4), (0, 2), "tanh"),
        "layout": hj.Direct(90),
    },
    "small": {"trunk": hj.Deconv((3, 5), (4,), 3), "layout": hj.Direct(15, 4)},
    "runs per condition": {
        "trunk": hj.Deconv((5, 4), (9,), 3, (0,)),
        "layout": hj.Direct(20, 3, per_condition=True),
    },
    "spectral": {"trunk": hj.Deconv((8, 7), (4,), 3, spectral=True), "layout": hj.Direct(56)},
    "mixed": {
        "trunk": hj.Deconv((5, 5), (4,), 3),
        "layout": {
            "layers.0.*": hj.Direct(25),
            "*.kernel": hj.Chunked(9, 4),
            "layers.2.bias": hj.Shared(),
        },
    },
    "MLP": {"trunk": hj.MLP(7, 52, norm=None), "layout": hj.Direct(52)},
    "MLP spectral": {"trunk": hj.MLP(7, 5, spectral=True), "layout": hj.Chunked(9, 3)},
}


@pytest.mark.parametrize("name", CASES)
def test_against_the_oracle_and_torch(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"condition": hj.Embedding(3, 4), "rngs": nnx.Rngs(0), **CASES[name]}
    hnet = shaken(hj.HyperNetwork(mlp(), **options))
    check(hnet, jnp.array([2, 0, 1]), 1e-6, tmp_path / "hnet.safetensors")


@pytest.fixture
def double() -> Any:
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("trunk", "layout"),
    [
        (ht.Deconv((7, 5), (8, 4), 3, (1,), norm="batch"), ht.Direct(35)),
        (ht.MLP(7, 5, norm="batch", per_condition=True), ht.Chunked(4, 3)),
        (ht.MLP(7, 5, norm="batch"), ht.Full()),
    ],
    ids=["deconv", "by id", "batch"],
)
def test_batch_norm_goes_on_in_jax_as_in_torch(trunk: Any, layout: Any, tmp_path: Path) -> None:
    """From a checkpoint of torch: the same tensors and statistics while training, and back."""
    torch.manual_seed(0)
    theirs = ht.HyperNetwork(
        nn.Linear(6, 4).double(), condition=ht.Embedding(3, 2), trunk=trunk, layout=layout
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ht.save(theirs, tmp_path / "a")
    target = nnx.Linear(6, 4, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    ours = hj.load(tmp_path / "a", target, translate=True)
    generate = nnx.jit(lambda hnet, ids: hnet.generate(ids))
    for ids in ([0, 2, 2], [1, 0, 0]):
        mine, other = generate(ours, jnp.array(ids)), theirs.generate(ids)
        for name, value in other.items():
            close(np.asarray(mine[name]), value.detach().numpy(), 1e-12)
    hj.save(ours, tmp_path / "b")
    again = torch_tensors(ht.load(tmp_path / "b", stub(ours.plan.spec)))
    for name, value in neutral_tensors(ours, with_base=True).items():
        np.testing.assert_array_equal(value, again[name].numpy())
        close(value, torch_tensors(theirs, with_base=True)[name].numpy(), 1e-12)
    ours.eval()
    theirs.eval()
    made = generate(ours, jnp.array([1, 2, 0]))
    for name, value in theirs.generate([1, 2, 0]).items():
        close(np.asarray(made[name]), value.detach().numpy(), 1e-12)
