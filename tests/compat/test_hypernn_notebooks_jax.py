"""The programs of hyper-nn's notebooks for JAX through the door: the numbers of hyper-nn."""

from __future__ import annotations

import importlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hyperloom.compat.hypernn import jax as door
from hyperloom.compat.hypernn.jax import utils
from tests.compat.hypernn_notebooks_jax import PROGRAMS


@pytest.fixture
def hypernn(monkeypatch: pytest.MonkeyPatch) -> Any:
    """hyper-nn 0.2.2, with the function in place that JAX no longer has."""
    monkeypatch.setattr(jax, "tree_map", jax.tree.map, raising=False)
    pytest.importorskip("hypernn.jax")
    return importlib.import_module("hypernn.jax")


# A program hands a list to a layer of Flax, which JAX does not like any more.
@pytest.mark.filterwarnings("ignore:shape requires ndarray:DeprecationWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_numbers_are_hypernns(name: str, hypernn: Any) -> None:
    found, wanted = PROGRAMS[name](door), PROGRAMS[name](hypernn)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


def test_parameters_are_counted_as_hypernn_does(hypernn: Any) -> None:
    theirs = hypernn.utils
    target = nn.Sequential([nn.Dense(5), nn.tanh, nn.Dense(4)])
    assert utils.count_jax_params(target, [(1, 6)]) == theirs.count_jax_params(target, [(1, 6)])
    num, variables = utils.count_jax_params(
        target, inputs=[jnp.ones((1, 6))], return_variables=True
    )
    assert num == 59
    again = theirs.count_jax_params(target, inputs=[jnp.ones((1, 6))], return_variables=True)[1]
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    for given in ((4192, 32), (4193, 32), (1, 3)):
        assert utils.get_weight_chunk_dims(*given) == theirs.get_weight_chunk_dims(*given)
    assert utils.count_jax_params(nnx.Linear(6, 4, rngs=nnx.Rngs(0))) == 28
    with pytest.raises(ValueError, match=r"^count_jax_params: got a Linen module without inputs"):
        utils.count_jax_params(target)
