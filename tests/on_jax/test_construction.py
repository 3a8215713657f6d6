"""A hypernetwork made inside `jit`, `vmap` and `eval_shape` is the one made outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests._support.on_jax import over
from tests.on_jax.plain import draws, same, target

KEYS = jax.random.split(jax.random.key(3), 2)
IDS = jnp.array([3, 0, 1])
TARGET = target()  # outside of any transform
NUM = hl.target_spec(TARGET).num_parameters


def of_key(key: Any, **choices: Any) -> hl.HyperNetwork:
    return over(
        TARGET, seed=key, **{"condition": hl.Embedding(5, 3), "trunk": hl.MLP(6), **choices}
    )


def numbers(hnet: hl.HyperNetwork) -> dict[str, Any]:
    net, params = hl.functional(hnet)
    leaves = [v for v in jax.tree.leaves(net) if not jnp.issubdtype(v.dtype, jax.dtypes.prng_key)]
    return {**params, **{str(i): leaf for i, leaf in enumerate(leaves)}}


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"layout": hl.Chunked(8, 3), "form": {"*.0.kernel": hl.LoRA(1)}},
        {"condition": hl.Recurrent(3, NUM), "layout": hl.Given(), "trunk": None},
        {"layout": hl.PerCondition(), "init": hl.BiasHyperInit()},
    ],
    ids=["full", "chunked", "given", "table"],
)
def test_in_jit_it_starts_with_the_same_numbers(choices: Any) -> None:
    made = nnx.jit(lambda key: of_key(key, **choices))(KEYS[0])
    outside = of_key(KEYS[0], **choices)
    assert made.plan == outside.plan
    same(numbers(made), numbers(outside))


def test_an_ensemble_by_vmap() -> None:
    several = nnx.vmap(of_key)(KEYS)
    alone = [of_key(key) for key in KEYS]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(numbers, alone))
    same(numbers(several), stacked)
    x = draws(0, 3, 6, 3)
    y = nnx.vmap(lambda hnet, x: hnet(x, condition=IDS), in_axes=(0, None))(several, x)
    same(y, jnp.stack([hnet(x, condition=IDS) for hnet in alone]), 1e-5)


def test_abstract_and_restored(tmp_path: Path) -> None:
    def whole(key: Any) -> hl.HyperNetwork:
        rngs = nnx.Rngs(key)
        module = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), jnp.tanh, nnx.Linear(4, 2, rngs=rngs))
        layout = {"*.kernel": hl.Full()}
        condition = hl.Embedding(5, 3)
        return hl.HyperNetwork(
            module, condition=condition, layout=layout, form=hl.Delta(), rngs=rngs
        )

    hnet = whole(KEYS[0])
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", nnx.to_pure_dict(nnx.state(hnet, nnx.Param)))
    empty = nnx.eval_shape(lambda: whole(KEYS[1]))
    graphdef, params, rest = nnx.split(empty, nnx.Param, ...)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves((params, rest)))
    with ocp.StandardCheckpointer() as saver:
        read = saver.restore(tmp_path / "state", nnx.to_pure_dict(params))
    nnx.replace_by_pure_dict(params, read)
    frozen = nnx.split(hnet, nnx.Param, ...)[2]
    again = nnx.merge(graphdef, params, frozen)
    same(again.generate(IDS), hnet.generate(IDS))


def test_a_part_grown_in_jit() -> None:
    twin = of_key(KEYS[0])

    @nnx.jit
    def grown(key: Any) -> Any:
        made = of_key(KEYS[0])
        made.add_conditions(2, rngs=nnx.Rngs(key))
        return made

    twin.add_conditions(2, rngs=nnx.Rngs(KEYS[1]))
    made = grown(KEYS[1])
    same(numbers(made), numbers(twin))
