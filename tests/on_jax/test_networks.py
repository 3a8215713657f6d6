"""One generator, several networks: a dict of modules as target, in JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests._support.compare import close
from tests._support.on_jax import hypernetwork


def networks() -> Any:
    rngs = nnx.Rngs(0)
    return {"actor": nnx.Linear(6, 2, rngs=rngs), "critic": nnx.Linear(9, 1, rngs=rngs)}


def test_each_network_is_run_by_its_name(tmp_path: Path) -> None:
    hnet = hypernetwork(networks)
    ids, generated = jnp.array([0, 2]), hnet.generate(jnp.array([0, 2]))
    net = hnet.bind(ids)
    for name, width in (("actor", 6), ("critic", 9)):
        x = jnp.linspace(-1, 1, 2 * 5 * width).reshape(2, 5, width)
        y = hnet(x, condition=ids, method=name)
        close(getattr(net, name)(x), y, 1e-5)
        kernel, bias = generated[f"{name}.kernel"], generated[f"{name}.bias"]
        close(jnp.einsum("bni,bio->bno", x, kernel) + bias[:, None], y, 1e-5)
    hl.save(hnet, tmp_path / "a")
    close(hl.load(tmp_path / "a", networks()).generate(ids), generated, 0.0)


def test_wrong_values_are_named() -> None:
    for target, text in (
        ({}, "target: got an empty dict; wanted a module for each name."),
        ({"a": 3}, "target: got 3 for 'a'; wanted an nnx.Module for each name."),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            hypernetwork(lambda target=target: target)
        assert str(error.value).startswith(text)
    with pytest.raises(TypeError, match=r"method: got none, for the networks actor, critic; "):
        hypernetwork(networks)(jnp.ones(6), condition=0)
