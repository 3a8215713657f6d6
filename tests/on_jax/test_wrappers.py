"""Perturbed and assembled hypernetworks, bare shapes, in JAX: against PyTorch and loops."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax import Array

import hyperloom.jax as hl
import hyperloom.torch as hlt
from hyperloom import Role
from hyperloom._core.reference import executor
from hyperloom.jax._tools.checkpoint import neutral_tensors
from tests.on_jax.plain import (
    Params,
    build,
    draws,
    of_vectors,
    plain,
    plain_at,
    same,
    target,
)

# ---- perturbed ----------------------------------------------------------------------------------


def test_noise_fills_the_space_of_weights() -> None:
    inner = build(condition=hl.Noise(2), trunk=None)
    net, params = hl.functional(hl.Perturbed(inner, sigma=0.3))

    @jax.jit
    def both(key: Array) -> tuple[Array, Array]:
        plain = net.merge(params).hnet.generate(4000, rngs=key)
        moved = net.generate(params, 4000, rngs=key)
        return hl.flatten(plain, net.plan), hl.flatten(moved, net.plan)

    values = [np.asarray(v, np.float64) for v in both(jax.random.key(0))]
    for value, rank in zip(values, (2, 26), strict=True):
        spectrum = np.linalg.svd(value - value.mean(0), compute_uv=False) / 4000**0.5
        assert int((spectrum > 0.05).sum()) == rank
    smallest = np.linalg.svd(values[1] - values[1].mean(0), compute_uv=False)[-1] / 4000**0.5
    assert 0.27 < smallest < 0.33
    # The noise of the weights is not that of the condition again.
    noise = (values[1] - values[0]) / 0.3
    assert abs(noise.std() - 1) < 0.02
    latent = np.linalg.lstsq(np.c_[values[0], np.ones(4000)], noise, rcond=1e-6)[0]
    assert np.abs(np.c_[values[0], np.ones(4000)] @ latent).std() < 0.05


def test_keys_tell_the_noise() -> None:
    net, params = hl.functional(hl.Perturbed(plain(), sigma=0.1))
    ids, x = jnp.zeros(2, int), draws(0, 2, 7, 3)
    make = jax.jit(lambda key: net.generate(params, ids, rngs=key))
    run = jax.jit(lambda key: net(params, x, condition=ids, rngs=key))
    first, second = jax.random.key(1), jax.random.key(2)
    made = make(first)
    for name, value in make(second).items():
        assert not np.any(np.asarray(value) == np.asarray(made[name]))
        assert not np.any(np.asarray(made[name][0]) == np.asarray(made[name][1]))
    same(run(first), jax.jit(plain().run)(made, x), 1e-5)
    same(hl.Perturbed(plain(), sigma=0.0).generate(2), plain_at(2))  # nothing to draw


def test_given_noise_and_handlers_as_in_pytorch(tmp_path: Path) -> None:
    shapes = {"0.kernel": (3, 4), "0.bias": (4,), "1.kernel": (4, 2), "1.bias": (2,)}
    mine = hl.HyperNetwork(
        hl.Shapes(shapes), condition=hl.Vector(3), trunk=hl.MLP(6), rngs=nnx.Rngs(0)
    )
    hl.save(mine, tmp_path / "hnet.safetensors")
    theirs = hlt.load(tmp_path / "hnet.safetensors", hlt.Shapes(shapes))
    z = draws(0, 5, 26)
    # hypnettorch's own: the first entries of the noise are the condition.
    net, params = hl.functional(hl.Perturbed(mine, 0.1, before=lambda z: z[:, :3]))
    made = jax.jit(lambda p, z: net.generate(p, z, noise=z))(params, z)
    raw = torch.tensor(np.asarray(z))
    wanted = hlt.Perturbed(theirs, 0.1, before=lambda z: z[:, :3]).generate(raw, noise=raw)
    same(made, {n: t.detach().numpy() for n, t in wanted.items()})
    twice = hl.Perturbed(mine, after=lambda params, z: {n: 2 * t for n, t in params.items()})
    same(twice.generate(z[:, :3]), {n: 2 * t for n, t in mine.generate(z[:, :3]).items()})


def test_a_perturbed_one_is_trained_and_run() -> None:
    hnet = hl.Perturbed(of_vectors(), 0.1)
    net, params = hl.functional(hnet)
    assert set(params) == {f"hnet.{name}" for name in hl.functional(of_vectors())[1]}
    assert net.plan is hnet.plan is of_vectors().plan
    vectors, noise, x = draws(0, 2, 3), draws(1, 2, 26), draws(2, 2, 7, 3)

    def loss(params: Params, net: Any, **options: Any) -> Array:
        return jnp.sum(net(params, x, condition=vectors, **options) ** 2)

    value, slope = jax.jit(jax.value_and_grad(lambda p: loss(p, net, noise=noise)))(params)
    made = hl.flatten(of_vectors().generate(vectors), net.plan) + 0.1 * noise
    y = of_vectors().run(hl.unflatten(made, net.plan), x)
    same(value, jnp.sum(y**2))
    assert all(np.any(np.asarray(g)) for g in slope.values())


class Doubled(nnx.Module):
    """A handler that learns."""

    def __init__(self) -> None:
        self.factor = nnx.Param(jnp.array(2.0))

    def __call__(self, params: Params, condition: Any) -> Params:
        return {name: self.factor[...] * value for name, value in params.items()}


def test_a_handler_may_be_a_module() -> None:
    hnet = hl.Perturbed(plain(), after=Doubled())
    net, params = hl.functional(hnet)
    assert "after.factor" in params
    slope = jax.jit(jax.grad(lambda p: hl.flatten(net.generate(p, 0), net.plan).sum()))(params)
    wanted = sum(value.sum() for value in plain_at(0).values())
    same(slope["after.factor"], wanted)


def test_perturbed_refuses() -> None:
    hnet = hl.Perturbed(of_vectors(), 0.1)
    z = draws(0, 5, 3)
    with pytest.raises(ValueError, match=r"noise: got shape \(4, 26\); wanted \(\*batch, P\)"):
        hnet.generate(z, noise=draws(1, 4, 26))
    with pytest.raises(ValueError, match=r"rngs: got none; wanted what to draw the noise from"):
        hnet.generate(z)
    twice = hl.Perturbed(of_vectors(), after=lambda params, z: params)
    with pytest.raises(ValueError, match="noise: got an array; wanted none"):
        twice.generate(z, noise=draws(1, 5, 26))
    with pytest.raises(TypeError, match="hnet: got a Sequential; wanted a HyperNetwork"):
        hl.Perturbed(target())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigma: got -1"):
        hl.Perturbed(plain(), -1.0)
    carries = build(condition=hl.Recurrent(2, 3), trunk=None)
    with pytest.raises(ValueError, match=r"hnet: got one with Recurrent\(2, 3.* has no state"):
        hl.Perturbed(carries)


# ---- assembled ----------------------------------------------------------------------------------


def from_parts(made: dict[str, Params]) -> Params:
    rows = made["rows"]
    return {
        "layers.0.kernel": jnp.concatenate([rows["0.weight"], -rows["0.weight"]]).T,
        "layers.0.bias": jnp.concatenate([rows["0.bias"], made["own"]["0.bias"]]),
        "layers.2.kernel": made["out"]["w"],
        "layers.2.bias": made["bias"]["bias"],
    }


@functools.cache
def assembled() -> hl.Assembled:
    condition, rngs = hl.Embedding(5, 3), nnx.Rngs(0)
    linear = nnx.Linear(1, 2, rngs=rngs)
    choices: list[tuple[str, Any, dict[str, Any]]] = [
        ("rows", hl.Shapes([(2, 3), (2,)]), {"condition": condition}),
        ("out", hl.Shapes({"w": (4, 2)}), {"condition": condition, "trunk": hl.MLP(5)}),
        ("own", hl.Shapes([(2,)]), {"condition": hl.Ids(5), "layout": hl.PerCondition()}),
        ("bias", linear, {"condition": hl.Ids(5), "layout": hl.Shared()}),
    ]
    parts = {name: hl.HyperNetwork(shapes, rngs=rngs, **own) for name, shapes, own in choices}
    return hl.Assembled(target(), parts, from_parts)


def test_assembled_by_a_function() -> None:
    hnet = assembled()
    net, params = hl.functional(hnet)
    ids = jnp.array([4, 0])
    made = jax.jit(lambda p, i: net.generate(p, i))(params, ids)
    # Each part by the oracle, and a loop over the conditions.
    for i, condition in enumerate((4, 0)):
        parts = {}
        for name, part in hnet.parts.items():
            tensors = {n: np.asarray(v) for n, v in neutral_tensors(part, with_base=True).items()}
            parts[name] = executor.generate(part.plan, tensors, condition)
        one = from_parts(parts)
        same({name: made[name][i] for name in one}, one)
        same(
            {n: v for n, v in hnet.generate(condition).items() if n in one},
            {n: one[n] for n in made},
        )
    np.testing.assert_array_equal(made["layers.2.bias"][0], made["layers.2.bias"][1])
    x = draws(0, 2, 7, 3)
    call = jax.jit(lambda p, x: net(p, x, condition=ids))
    y = call(params, x)
    for i in range(2):
        one = {name: value[i] for name, value in made.items()}
        same(y[i], hnet.runner.run(one, x[i]), 1e-5)
    slope = jax.jit(jax.grad(lambda p: jnp.sum(call(p, x) ** 2)))(params)
    unused = {n for n, g in slope.items() if not np.any(np.asarray(g))}
    assert unused == {"parts.bias.condition.table.blocks.0", "parts.own.condition.table.blocks.0"}
    assert all(params[n].size == 0 for n in unused)  # ids without vectors
    each = hnet.generate({"rows": [1, 2], "out": [2, 1], "own": [1, 2], "bias": [1, 2]})
    same(each["layers.2.kernel"][0], hnet.generate(2)["layers.2.kernel"])


def test_assemblies_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="condition: got batches"):
        assembled().generate({"rows": [1, 2], "out": 2, "own": 1, "bias": 1})
    with pytest.raises(ValueError, match=r"condition: got \['rows'\]; wanted"):
        assembled().generate({"rows": [1, 2]})
    parts = dict(assembled().parts.items())
    cases: list[tuple[Any, type[Exception], str]] = [
        ({"layers.2.kernel": jnp.zeros((2, 4))}, ValueError, r"got shape \(2, 4\) for 'layers.2.k"),
        ({"layers.2.bias": 1.0}, ValueError, r"assemble: got 1\.0 for 'layers.2.bias'; wanted "),
        ({"x": jnp.zeros(1)}, ValueError, r"assemble: got \[\] missing, \['x'\] unknown"),
        (None, TypeError, "assemble: got a list; wanted a tensor for each"),
    ]
    for change, error, text in cases:
        function = lambda made, c=change: [] if c is None else {**from_parts(made), **c}  # noqa: E731
        with pytest.raises(error, match=text):
            hl.Assembled(target(), parts, function).generate([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="parts: got none"):
        hl.Assembled(target(), {}, from_parts)
    with pytest.raises(TypeError, match=r"parts\['a'\]: got a Sequential; wanted a HyperNetwork"):
        hl.Assembled(target(), {"a": target()}, from_parts)  # type: ignore[dict-item]


def test_a_large_target_costs_nothing_to_wrap() -> None:
    """No array of its 4 TB is made: neither its weights nor a vector that stands for them."""
    large = hl.Shapes({"weight": (10**6, 10**6)})
    hnet = hl.Assembled(large, {"a": plain()}, lambda made: made["a"])
    assert hnet.plan.num_generated == 10**12


def test_parts_that_draw_noise_and_a_linen_target() -> None:
    import flax.linen as nn

    net = hl.Linen(nn.Dense(2), jnp.ones((1, 3)))
    noise = hl.HyperNetwork(hl.Shapes([(3, 2)]), condition=hl.Noise(2), rngs=nnx.Rngs(0))
    other = hl.HyperNetwork(hl.Shapes([(2,)]), condition=hl.Noise(2), rngs=nnx.Rngs(1))
    hnet = hl.Assembled(
        net,
        {"a": noise, "b": other},
        lambda made: {"kernel": made["a"]["0.weight"], "bias": made["b"]["0.bias"]},
    )
    key = jax.random.key(0)
    y = hnet(jnp.ones((4, 3)), condition=4, rngs=key, in_axes=None)
    made = hnet.generate(4, rngs=key)
    same(y, jnp.einsum("ni,bio->bno", jnp.ones((4, 3)), made["kernel"]) + made["bias"][:, None])
    assert not jnp.allclose(made["bias"][0], made["bias"][1])


# ---- shapes -------------------------------------------------------------------------------------

BARE: dict[str, Any] = {
    "listed": [(4, 3), (4,), (2, 4, 3, 3), (2,), (5,)],
    "kernels": {"a.kernel": (3, 4), "b.kernel": (3, 3, 4, 2), "b.bias": (2,), "a.bias": (4,)},
    "bare names": {"w": (4, 2), "bias": (4,), "c": ()},
}


@pytest.mark.parametrize("shapes", BARE.values(), ids=BARE)
def test_bare_shapes_as_in_pytorch(shapes: Any, tmp_path: Path) -> None:
    mine, theirs = hl.Shapes(shapes), hlt.Shapes(shapes)
    assert hl.target_spec(mine) == hlt.target_spec(theirs)
    choices: Any = {"condition": hl.Embedding(2, 3), "init": hl.HyperfanIn()}
    hnet = hl.HyperNetwork(mine, rngs=nnx.Rngs(0), **choices)
    assert hnet.plan == hlt.HyperNetwork(theirs, **choices).plan
    made = jax.jit(hnet.generate)(jnp.array([1, 0]))
    hl.save(hnet, tmp_path / "hnet.safetensors")
    twin = hlt.load(tmp_path / "hnet.safetensors", theirs)
    same(made, {n: t.detach().numpy() for n, t in twin.generate([1, 0]).items()})
    hnet.load(tmp_path / "hnet.safetensors")


def test_what_bare_shapes_tell() -> None:
    own = {t.name: t for t in hl.target_spec(target())}
    shapes = hl.Shapes({name: tensor.shape for name, tensor in own.items()})
    for mine in hl.target_spec(shapes):
        other = own[mine.name]
        assert (mine.shape, mine.role) == (other.shape, other.role)
        assert (mine.fan_in, mine.fan_out) == (other.fan_in, other.fan_out)
        assert (mine.out_axis, mine.in_axis) == (other.out_axis, other.in_axis)
    spec = hl.target_spec(hl.Shapes(BARE["kernels"]))
    assert (spec["b.kernel"].fan_in, spec["b.kernel"].fan_out) == (36, 18)
    assert (spec["b.bias"].role, spec["b.bias"].fan_in) == (Role.BIAS, 36)
    assert str(hl.target_spec(hl.Shapes([(2,)], "bfloat16")).tensors[0].dtype) == "bfloat16"
    assert repr(hl.Shapes([(2,)])) == "Shapes({'0.bias': (2,)})"


def test_bare_shapes_refuse() -> None:
    hnet = hl.HyperNetwork(hl.Shapes([(2, 3)]), condition=hl.Vector(2), rngs=nnx.Rngs(0))
    for call in (
        lambda: hnet(jnp.ones(3), condition=jnp.ones(2)),
        lambda: hnet.instantiate(jnp.ones(2)),
    ):
        with pytest.raises(TypeError, match=r"target: got Shapes, which has no forward.*generate"):
            call()
    with pytest.raises(ValueError, match="shapes: got none"):
        hl.Shapes([])
    with pytest.raises(TypeError, match=r"shapes\[0\]: got \(2, 'x'\)"):
        hl.Shapes([(2, "x")])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="a target that has only shapes"):
        hl.HyperNetwork(
            hl.Shapes([(2, 3)]), condition=hl.Vector(2), form=hl.Delta(), rngs=nnx.Rngs(0)
        )
