"""hyper-nn's README in Flax with only the import lines changed, and the door against hyper-nn."""

# ruff: noqa: C408
from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import random

from hyperloom.compat.hypernn import jax as door
from hyperloom.compat.hypernn.jax.dynamic_hypernet import JaxDynamicHyperNetwork, JaxHyperNetwork
from tests._support import compare

close = partial(compare.close, tolerance=1e-5)


def test_usage() -> None:
    """The block as it stands there, its imports above; what follows `# check` is ours."""
    # any module
    target_network = nn.Sequential(
        [
            nn.Dense(64),
            nn.relu,
            nn.Dense(32)
        ]
    )  # fmt: skip

    EMBEDDING_DIM = 4
    NUM_EMBEDDINGS = 32

    hypernetwork: Any = JaxHyperNetwork.from_target(
        target_network = target_network,
        embedding_dim = EMBEDDING_DIM,
        num_embeddings = NUM_EMBEDDINGS,
        inputs=jnp.zeros((1, 32)) # jax needs this to initialize target weights
    )  # fmt: skip

    inp = jnp.zeros((1, 32))
    key = random.PRNGKey(0)
    hypernetwork_params = hypernetwork.init(key, inp)

    output = hypernetwork.apply(hypernetwork_params, inp)

    # check
    assert output.shape == (1, 32)
    first = output

    output, generated_params, aux_output = hypernetwork.apply(
        hypernetwork_params, inp, has_aux=True
    )

    # check
    close(output, first)
    assert generated_params.shape == (4192,)
    assert aux_output["embedding"].shape == (NUM_EMBEDDINGS, EMBEDDING_DIM)

    generated_params, aux_output = hypernetwork.apply(
        hypernetwork_params, inp, method=hypernetwork.generate_params
    )

    output = hypernetwork.apply(hypernetwork_params, inp, generated_params=generated_params)

    # check
    close(output, first)

    dynamic_hypernetwork: Any = JaxDynamicHyperNetwork.from_target(
        input_dim = 32,
        target_network = target_network,
        embedding_dim = EMBEDDING_DIM,
        num_embeddings = NUM_EMBEDDINGS,
        inputs=jnp.zeros((1, 32)) # jax needs this to initialize target weights
    )  # fmt: skip
    dynamic_hypernetwork_params = dynamic_hypernetwork.init(key, inp)

    output = dynamic_hypernetwork.apply(dynamic_hypernetwork_params, inp)

    # check
    assert output.shape == (1, 32)
    first = output

    output = dynamic_hypernetwork.apply(
        dynamic_hypernetwork_params,
        inp,
        generate_params_kwargs=dict(hidden_state=jnp.zeros((1, 32))),
    )

    # check
    close(output, first)


@pytest.fixture
def hypernn(monkeypatch: pytest.MonkeyPatch) -> Any:
    """hyper-nn 0.2.2, with the function in place that JAX no longer has."""
    monkeypatch.setattr(jax, "tree_map", jax.tree.map, raising=False)
    return pytest.importorskip("hypernn.jax")


def dense_layers() -> nn.Module:
    return nn.Sequential([nn.Dense(5), nn.tanh, nn.Dense(4)])


def test_numbers_are_hypernns_and_files_are_read(hypernn: Any, tmp_path: Path) -> None:
    options: Any = {"embedding_dim": 3, "num_embeddings": 4, "inputs": [jnp.zeros((1, 6))]}
    theirs = hypernn.JaxLinearHyperNetwork.from_target(dense_layers(), **options)
    ours: Any = door.JaxLinearHyperNetwork.from_target(dense_layers(), **options)
    x = random.normal(random.key(1), (7, 6))
    params = theirs.init(random.key(0), x)
    theirs.save(params, str(tmp_path / "theirs"))
    read = ours.load(ours.init(random.key(3), x), tmp_path / "theirs")
    close(read, params)
    expected, flat, aux = theirs.apply(params, x, has_aux=True)
    y, own_flat, own_aux = ours.apply(read, x, has_aux=True)
    close(y, expected)
    close((own_flat, own_aux), (flat[: ours.num_target_parameters], aux))
    ours.save(params, tmp_path / "ours")
    close(ours.load(read, tmp_path / "ours"), params)


def test_a_batch_for_a_dynamic_network_is_a_loop(hypernn: Any) -> None:
    options: Any = {"input_dim": 6, "num_embeddings": 3, "inputs": [jnp.zeros((1, 6))]}
    theirs = hypernn.JaxDynamicHyperNetwork.from_target(dense_layers(), **options)
    ours: Any = door.JaxDynamicHyperNetwork.from_target(dense_layers(), **options)
    params = ours.init(random.key(0), jnp.zeros((1, 6)))

    @jax.jit
    def call(x: Any, state: Any) -> Any:
        more = {"hidden_state": state}
        return ours.apply(params, x, has_aux=True, generate_params_kwargs=more)

    xs = random.normal(random.key(1), (2, 3, 1, 6))
    state = flat_state = None
    states: list[Any] = [None] * 3
    for x in xs:
        y, _, aux = call(x, state)
        flat_y, _, flat_aux = call(x[:, 0], flat_state)
        state, flat_state = aux["hidden_state"], flat_aux["hidden_state"]
        for i in range(3):
            more = {"x": x[i], "hidden_state": states[i]}
            one, _, aux = theirs.apply(params, x[i], has_aux=True, generate_params_kwargs=more)
            states[i] = aux["hidden_state"]
            close(y[i], one)
            close(flat_y[i], one[0])
    close(jax.vmap(lambda x: ours.apply(params, x))(xs[0]), call(xs[0], None)[0])


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=False)(nn.Dense(64)(x)))


@pytest.mark.slow  # seconds of compilation
def test_rngs_reach_the_target() -> None:
    ours: Any = door.JaxHyperNetwork.from_target(Dropped(), inputs=[jnp.zeros((1, 6))])
    x = random.normal(random.key(1), (7, 6))
    params = ours.init({"params": random.key(0), "dropout": random.key(1)}, x)
    first = ours.apply(params, x, rngs={"dropout": random.key(2)})
    assert first.shape == (7, 4)
    close(ours.apply(params, x, rngs={"dropout": random.key(2)}), first)
    other = ours.apply(params, x, rngs={"dropout": random.key(3)})
    assert not jnp.allclose(other, first)


@pytest.mark.slow  # seconds of compilation
def test_an_nnx_target_and_custom_modules() -> None:
    target = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    ours: Any = door.JaxHyperNetwork.from_target(
        target, num_embeddings=4, custom_weight_generator=nn.Sequential([nn.Dense(8), nn.Dense(7)])
    )
    x = random.normal(random.key(1), (7, 6))
    params = ours.init(random.key(0), x)
    y, flat, _ = jax.jit(lambda p, x: ours.apply(p, x, has_aux=True))(params, x)
    spec = {name: v.shape for name, v in nnx.state(target).items()}
    assert sum(int(np.prod(s)) for s in spec.values()) == ours.num_target_parameters == 28
    grads = jax.grad(lambda p: ours.apply(p, x).sum())(params)
    assert any(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads))
    close(ours.apply(params, x, generated_params=flat), y)


def test_wrong_shapes_are_refused() -> None:
    ours: Any = door.JaxHyperNetwork.from_target(dense_layers(), target_input_shape=[(1, 6)])
    x = jnp.zeros((7, 6))
    params = ours.init(random.key(0), x)
    with pytest.raises(ValueError, match=r"generated_params: got shape \(58,\); wanted"):
        ours.apply(params, x, generated_params=jnp.zeros(58))
    with pytest.raises(ValueError, match="from_target: got a Linen module without inputs"):
        door.JaxHyperNetwork.from_target(dense_layers())
    assert ours.count_params(dense_layers(), inputs=jnp.zeros((1, 6))) == 59
