"""How inputs pair with conditions: by their trees, by name, or not at all."""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx, struct
from jax import Array

import hyperloom.jax as hl
from tests.on_jax.plain import draws, same

IDS = jnp.array([0, 2, 1])


class Mixer(nnx.Module):
    """Takes anything: `f(x) * scale + shift`, where `x` may be a dict or an object."""

    def __init__(self) -> None:
        self.linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, x: Any, shift: Any = 0.0, *, scale: Any = 1.0, names: Any = ()) -> Array:
        if isinstance(x, dict):
            x, shift = x["x"], x["shift"]
        elif hasattr(x, "x"):
            x, shift = x.x, x.shift
        return self.linear(x) * scale + shift


@functools.cache
def mixer() -> hl.HyperNetwork:
    return hl.HyperNetwork(Mixer(), condition=hl.Embedding(3, 2), rngs=nnx.Rngs(1))


X, SHIFT = draws(0, 3, 5, 3), draws(1, 3, 5, 2)


def by_loop(x: Any = X, shift: Any = SHIFT) -> Array:
    return jnp.stack([mixer()(x[i], shift[i], condition=IDS[i]) for i in range(3)])


class Pair(NamedTuple):
    x: Any
    shift: Any


@struct.dataclass
class Registered:
    x: Any
    shift: Any


@dataclass
class Unregistered:
    x: Any
    shift: Any


@pytest.mark.parametrize("kind", [dict, OrderedDict, Pair, Registered])
@pytest.mark.parametrize("dims", [0, {"shift": 0, "x": 0}, {"shift": None, "x": 0}, "mirror"])
def test_trees_pair_by_their_keys(kind: Any, dims: Any) -> None:
    shared = isinstance(dims, dict) and dims["shift"] is None
    tree = kind(shift=SHIFT[0] if shared else SHIFT, x=X)
    dims = kind(shift=0, x=0) if dims == "mirror" else dims
    y = mixer()(tree, condition=IDS, in_axes=(dims,))
    same(y, by_loop(shift=[SHIFT[0]] * 3 if shared else SHIFT))


@pytest.mark.parametrize(
    ("dims", "text"),
    [
        ({"x": 0}, "in_axes: got no entry for 'shift' in those for input 0"),
        (
            {"x": 0, "shift": 0, "shfit": 0},
            "in_axes: got an entry for 'shfit' in those for input 0",
        ),
        ((0,), "in_axes: got no entry for 1 in those for input 0"),
    ],
)
def test_in_axes_that_lack_a_key_are_refused(dims: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        mixer()({"x": X, "shift": SHIFT}, condition=IDS, in_axes=(dims,))
    if isinstance(dims, tuple):
        return
    with pytest.raises(ValueError, match="in_axes: got the key 'x'; wanted places and keywords"):
        mixer()({"x": X, "shift": SHIFT}, condition=IDS, in_axes=dims)


def test_in_axes_by_place_and_keyword() -> None:
    scale = draws(2, 3, 1, 1)
    y = mixer()(X, SHIFT[0], scale=scale, condition=IDS, in_axes={1: None})
    same(
        y, jnp.stack([mixer()(X[i], SHIFT[0], scale=scale[i], condition=IDS[i]) for i in range(3)])
    )
    y = mixer()(X, SHIFT, scale=scale[0], condition=IDS, in_axes={"scale": None})
    same(
        y, jnp.stack([mixer()(X[i], SHIFT[i], scale=scale[0], condition=IDS[i]) for i in range(3)])
    )


def test_one_number_is_for_all_conditions_also_where_it_is_traced() -> None:
    hnet = mixer()
    wanted = hnet(X, condition=IDS, scale=2.0)
    same(jax.jit(lambda x, s: hnet(x, condition=IDS, scale=s))(X, 2.0), wanted)
    same(hnet(X, condition=IDS, scale=np.float32(2)), wanted)
    text = r"scale: got shape \(2,\) beside conditions \(3,\).* in_axes={'scale': None}"
    with pytest.raises(ValueError, match=text):
        hnet(X, condition=IDS, scale=jnp.ones(2))


class Wrapped:
    """An array in disguise, as JAX lets one be."""

    def __jax_array__(self) -> Array:
        return X


@pytest.mark.parametrize(
    "x", [np.asarray(X), Wrapped(), nnx.Param(X)], ids=lambda x: type(x).__name__
)
def test_arrays_of_other_kinds_pair(x: Any) -> None:
    same(mixer()(x, SHIFT, condition=IDS), by_loop())


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"x": torch.ones(3, 5, 3)}, "input 0: got a torch.Tensor; wanted arrays of JAX or NumPy"),
        ({"x": np.ones((3, 3)).tolist()}, r"input 0\[0\]\[0\]: got a list or tuple of values"),
        ({"x": Unregistered(X, SHIFT)}, "input 0: got a .*Unregistered; wanted arrays"),
        ({"x": np.array(["a", "b", "c"])}, "input 0: got a numpy.ndarray; wanted arrays of JAX"),
        ({"x": X, "names": ["a", "b", "c"]}, r"names\[0\]: got a list or tuple of values"),
        ({"x": X, "names": {1, 2, 3}}, "names: got a builtins.set; wanted arrays of JAX"),
    ],
)
def test_what_cannot_be_paired_is_refused_unless_it_is_shared(given: Any, text: str) -> None:
    given = dict(given)
    x = given.pop("x")
    with pytest.raises(TypeError, match=text):
        mixer()(x, condition=IDS, **given)
    if given:
        same(mixer()(x, condition=IDS, in_axes={"names": None}, **given), mixer()(x, condition=IDS))
    elif isinstance(x, Unregistered):
        y = mixer()(Unregistered(X[0], SHIFT[0]), condition=IDS, in_axes=None)
        same(y, by_loop([X[0]] * 3, [SHIFT[0]] * 3))


def test_two_batch_dimensions_and_in_axes_elsewhere() -> None:
    ids = jnp.array([[0, 1], [2, 1]])
    x = draws(3, 2, 2, 5, 3)
    rows = [mixer()(x[i, j], condition=ids[i, j]) for i in range(2) for j in range(2)]
    wanted = jnp.stack(rows).reshape(2, 2, 5, 2)
    same(mixer()(x, condition=ids), wanted)
    same(mixer()(jnp.moveaxis(x, 2, 0), condition=ids, in_axes=1), wanted)
    turned = jnp.transpose(x, (2, 3, 1, 0))  # each -1 takes the last axis that is left
    same(mixer()(turned, condition=ids, in_axes=-1), wanted)


CHOICES: list[dict[str, Any]] = [
    {},
    {"trunk": hl.MLP(5), "layout": hl.Chunked(5, 2)},
    {"form": {"kernel": hl.LoRA(1)}},
    {"layout": hl.PerCondition(), "execution": hl.Execution(max_memory=1)},
    {"execution": hl.Execution(strategy="loop")},
]


@pytest.mark.parametrize("choices", CHOICES)
def test_an_empty_batch(choices: dict[str, Any]) -> None:
    target = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(3, 2), rngs=nnx.Rngs(1), **choices)
    none = jnp.zeros(0, int)
    assert hnet(jnp.ones((0, 5, 3)), condition=none).shape == (0, 5, 2)
    assert hl.flatten(hnet.generate(none), hnet.plan).shape == (0, 8)
