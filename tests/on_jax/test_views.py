"""Generated tensors and parameters in other forms, in JAX: against PyTorch."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import hyperloom.jax as hl
import hyperloom.torch as hlt
from tests.on_jax.plain import (
    build,
    draws,
    plain,
    plain_at,
    same,
)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_flat_and_back_as_in_pytorch(batch: tuple[int, ...]) -> None:
    plan = plain().plan
    shapes = {entry.tensor: plan.spec[entry.tensor].shape for entry in plan.entries}
    made = {name: draws(i, *batch, *shape) for i, (name, shape) in enumerate(shapes.items())}
    flat = jax.jit(lambda p: hl.flatten(p, plan))(made)
    assert flat.shape == (*batch, 26)
    theirs = hlt.flatten({n: torch.tensor(np.asarray(v)) for n, v in made.items()}, plan)
    np.testing.assert_array_equal(flat, theirs)
    back = jax.jit(lambda f: hl.unflatten(f, plan))(flat)
    for name, value in hlt.unflatten(theirs, plan).items():
        np.testing.assert_array_equal(back[name], value)
        np.testing.assert_array_equal(back[name], made[name])


def test_apart_and_together() -> None:
    made = plain_at([3, 1, 1])
    samples = hl.unstack(made)
    assert len(samples) == 3
    same(samples[1], samples[2])
    same(samples[0], plain_at(3))  # one condition alone has no dimension of a batch
    same(hl.stack(samples), made)
    same(jax.jit(lambda p: hl.stack(hl.unstack(p)))(made), made)


@functools.cache
def by_id() -> hl.HyperNetwork:
    layers = {"layers.0.*": hl.Chunked(5, 2, per_condition=True), "layers.2.*": hl.PerCondition()}
    return build(layout=layers)


def test_parameters_by_whom_they_belong_to() -> None:
    hnet = by_id()
    net, params = hl.functional(hnet)
    shared, own = hl.shared_parameters(hnet), hl.conditional_parameters(hnet)
    assert set(shared) | set(own) == set(params)
    assert not set(shared) & set(own)
    assert all(len(p) == 5 for p in own.values())
    rows = hl.conditional_parameters(hnet, 3)
    assert {name: row.shape for name, row in rows.items()} == {
        "condition.table": (3,),
        "heads.chunked.slots": (4, 2),
        "heads.per_condition.table": (10,),
    }
    for name, row in rows.items():
        np.testing.assert_array_equal(row, own[f"{name}.blocks.0"][3])
    # Only what belongs to condition 3 changes what condition 3 gets, and nothing else.
    generate = jax.jit(lambda p: net.generate(p, jnp.arange(5)))
    before = generate(params)
    moved = {name: p.at[3].add(1.0) for name, p in own.items()}
    for name, value in generate({**params, **moved}).items():
        changed = np.any(np.asarray(value != before[name]).reshape(5, -1), axis=1)
        assert changed.tolist() == [False, False, False, True, False], name


def test_names_are_those_of_pytorch_but_for_the_blocks() -> None:
    """The same choices for the same shapes: who owns what is the same in both backends."""
    shapes = [(4, 3), (4,), (2, 4), (2,)]
    choices: Any = {
        "condition": hl.Concat(hl.Embedding(5, 3), hl.Vector(2)),
        "layout": {"0.*": hl.Chunked(5, 2, per_condition=True), "1.*": hl.PerCondition()},
    }
    mine = hl.HyperNetwork(hl.Shapes(shapes), rngs=nnx.Rngs(0), **choices)
    theirs = hlt.HyperNetwork(hlt.Shapes(shapes), **choices)
    rows = hl.conditional_parameters(mine, 2), hlt.conditional_parameters(theirs, 2)
    assert {n: r.shape for n, r in rows[0].items()} == {
        n: tuple(r.shape) for n, r in rows[1].items()
    }
    ours, others = hl.shared_parameters(mine), hlt.shared_parameters(theirs)
    assert {n: p.shape for n, p in ours.items()} == {n: tuple(p.shape) for n, p in others.items()}


def test_rows_of_ids_that_were_added() -> None:
    hnet = build(trunk=None)
    hnet.add_conditions(2, rngs=nnx.Rngs(1))
    assert {n: p.shape for n, p in hl.conditional_parameters(hnet).items()} == {
        "condition.table.blocks.0": (5, 3),
        "condition.table.blocks.1": (2, 3),
    }
    wanted = hl.conditional_parameters(hnet)["condition.table.blocks.1"][1]
    np.testing.assert_array_equal(hl.conditional_parameters(hnet, 6)["condition.table"], wanted)


def test_the_shared_parameters_perturbed() -> None:
    shared, ids = hl.shared_parameters(plain()), jnp.array([0, 1])
    batched = {n: jnp.stack([p, p + 0.1]) for n, p in shared.items()}
    generate = jax.jit(jax.vmap(lambda p: plain().generate(ids, parameters=p)))
    made = generate(batched)
    same(jax.tree.map(lambda a: a[0], made), plain_at([0, 1]))
    for value in made.values():
        assert not np.any(np.isclose(value[0], value[1]))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda h: hl.flatten({}, h.plan), ValueError, "params: got no tensor for 'layers.0.bias'"),
        (
            lambda h: hl.flatten({n: v.T for n, v in plain_at(0).items()}, h.plan),
            ValueError,
            r"params\['layers.0.kernel'\]: got shape \(4, 3\); wanted shape \(\*batch, 3, 4\)",
        ),
        (
            lambda h: hl.flatten({**plain_at([0]), "layers.0.bias": jnp.zeros(4)}, h.plan),
            ValueError,
            r"params: got batches \[\(\), \(1,\)\]; wanted the same for all tensors",
        ),
        (lambda h: hl.unflatten(jnp.zeros((2, 25)), h.plan), ValueError, r"wanted \(\*batch, 26\)"),
        (lambda h: hl.unstack({}), ValueError, "params: got tensors with first"),
        (
            lambda h: hl.unstack({"a": jnp.zeros(2), "b": jnp.zeros(3)}),
            ValueError,
            r"params: got tensors with first dimensions \[\(2,\), \(3,\)\]",
        ),
        (lambda h: hl.stack([]), ValueError, "samples: got none"),
        (lambda h: hl.stack([{"a": jnp.zeros(1)}, {}]), ValueError, "samples: got none, or"),
        (
            lambda h: hl.conditional_parameters(h, 5),
            IndexError,
            r"cond_id: got 5; wanted .* 0 .. 4",
        ),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_refused(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(plain())
