"""Trunks over slots and conditions that are sets: JAX against the NumPy oracle and PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests._support.on_jax import shaken
from tests._support.slots import CASES, raw
from tests.on_jax.cases import mlp
from tests.parity.test_parity_jax import check


@pytest.fixture(autouse=True)
def double() -> Any:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", CASES)
def test_against_the_oracle_and_torch(name: str, masked: bool, tmp_path: Path) -> None:
    choices, kind = CASES[name]
    hnet = shaken(hl.HyperNetwork(mlp(jnp.float64), rngs=nnx.Rngs(0), **choices))
    check(hnet, jax.tree.map(jnp.asarray, raw(kind, masked)), 1e-12, tmp_path / "hnet.safetensors")
