"""Targets of every kind: statistics, dropout, attention, recurrence, embeddings, hypernetworks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests._support.on_jax import over
from tests.on_jax.test_batch_equals_loop import close

IDS = jnp.array([3, 0, 3, 1])


make = partial(over, seed=1, condition=hl.Embedding(5, 4))


def floats(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.randn(*shape), jnp.float32)


class LinenBlock(nn.Module):
    """A bit of everything, in Linen."""

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        x = nn.Embed(6, 8)(tokens)
        x = x + nn.MultiHeadDotProductAttention(2)(x, x)
        x = nn.RNN(nn.OptimizedLSTMCell(8))(nn.LayerNorm()(x))
        return nn.Dense(2)(x)


class Block(nnx.Module):
    """The same in NNX."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(6, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.rnn: Any = nnx.RNN(nnx.OptimizedLSTMCell(8, 8, rngs=rngs), rngs=rngs)
        self.out = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        x = self.embed(tokens)
        return self.out(self.rnn(self.norm(x + self.attention(x))))


def linen_block() -> hl.Linen:
    return hl.Linen(LinenBlock(), jnp.zeros((1, 3), int))


def recurrent(cell: Callable[..., Any]) -> Callable[[], nnx.Module]:
    return lambda: nnx.RNN(cell(3, 4, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))


def inner() -> hl.HyperNetwork:
    target = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), jnp.tanh)
    return hl.HyperNetwork(
        target, condition=hl.Vector(2), trunk=hl.MLP(3), layout=hl.Chunked(5, 2), rngs=nnx.Rngs(0)
    )


class Conditioned(nnx.Module):
    """A hypernetwork whose condition is a positional input: `condition` is the outer one's."""

    def __init__(self) -> None:
        self.hnet = inner()

    def __call__(self, x: Any, vector: Any) -> Any:
        return self.hnet(x, condition=vector)


TARGETS: dict[str, tuple[Callable[[], Any], Callable[[], jax.Array]]] = {
    "block": (Block, lambda: jnp.asarray(np.random.randint(0, 6, (4, 2, 3)))),
    "linen-block": (linen_block, lambda: jnp.asarray(np.random.randint(0, 6, (4, 2, 3)))),
    "rnn": (recurrent(nnx.SimpleCell), lambda: floats(4, 2, 5, 3)),
    "lstm": (recurrent(nnx.LSTMCell), lambda: floats(4, 2, 5, 3)),
    "gru": (recurrent(nnx.GRUCell), lambda: floats(4, 2, 5, 3)),
}


SLOW = ("linen-block", "rnn", "gru")  # seconds each to compile


@pytest.mark.parametrize(
    "target", [pytest.param(t, marks=pytest.mark.slow) if t in SLOW else t for t in TARGETS]
)
def test_batch_equals_loop(target: str) -> None:
    build, inputs = TARGETS[target]
    hnet, x = make(build()), inputs()
    net, params = hl.functional(hnet)

    def loss(params: Any, x: Any, ids: Any) -> Any:
        y = net(params, x, condition=ids)
        return jnp.sum(jnp.sin(y)), y

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, y), gradient = run(params, x, IDS)
    each = [run(params, x[i], IDS[i]) for i in range(4)]
    close(y, jnp.stack([made[0][1] for made in each]), 1e-5)
    close(value, sum(made[0][0] for made in each), 1e-5)
    summed = jax.tree.map(lambda *leaves: sum(leaves), *[made[1] for made in each])
    close(gradient, summed, 1e-5)
    net_of_3 = hnet.instantiate(3)
    close(net_of_3(x[0]), y[0], 1e-5)


def test_a_hypernetwork_as_target() -> None:
    hnet, x, vectors = make(Conditioned()), floats(4, 2, 3), floats(4, 2)
    y = hnet(x, vectors, condition=IDS)
    close(y, jnp.stack([hnet(x[i], vectors[i], condition=IDS[i]) for i in range(4)]), 1e-5)
    close(hnet.instantiate(3)(x[0], vectors[0]), y[0], 1e-5)
    assert hnet.generate(IDS)["hnet.heads.chunked.weight"].shape == (4, 5, 3)


class NormAndDropout(nnx.Module):
    def __init__(self, rate: float = 0.0) -> None:
        rngs = nnx.Rngs(0, dropout=1)
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(self.dropout(self.norm(self.first(x))))


class LinenNormAndDropout(nn.Module):
    rate: float = 0.0

    @nn.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        x = nn.Dense(4)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(2)(x)


# ---- statistics of each condition ---------------------------------------------------------------


def test_statistics_of_each_condition_are_returned_and_not_kept() -> None:
    hnet, x = make(NormAndDropout()), 3 + floats(4, 10, 3)
    before = {n: np.asarray(v) for n, v in hnet.target.state().items()}
    y, state = hnet(x, condition=IDS, mutable=True)
    assert {n: v.shape for n, v in state.items()} == {"norm.mean": (4, 4), "norm.var": (4, 4)}
    # What each network by itself would have gathered.
    for i, condition in enumerate(IDS):
        alone = hnet.instantiate(int(condition))
        close(alone(x[i]), y[i], 1e-5)
        close(alone.norm.mean[...], state["norm.mean"][i], 1e-5)
        close(alone.norm.var[...], state["norm.var"][i], 1e-5)
    after = {n: np.asarray(v) for n, v in hnet.target.state().items()}
    assert all(np.array_equal(before[n], after[n]) for n in before)
    again, state2 = hnet(x, condition=IDS, state=state, mutable=True)
    close(again, y, 1e-6)
    assert jnp.abs(state2["norm.mean"] - state["norm.mean"]).max() > 1e-3
    hnet.eval()
    z = hnet(x, condition=IDS, state=state2)
    one = {n: v[2] for n, v in state2.items()}
    close(hnet(x[2], condition=3, state=one), z[2], 1e-5)
    close(hnet.instantiate(3, state=one)(x[2]), z[2], 1e-5)


def test_lost_statistics_are_said_once() -> None:
    hnet, x = make(NormAndDropout()), floats(4, 10, 3)
    with pytest.warns(UserWarning, match="it updates its state, 'norm.mean' first, which is not"):
        hnet(x, condition=IDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hnet(x, condition=IDS)
        fresh = make(NormAndDropout())
        fresh(x, condition=IDS, mutable=True)
        fresh.eval()
        fresh(x, condition=IDS)


def test_statistics_in_linen() -> None:
    module = LinenNormAndDropout()
    hnet, x = make(hl.Linen(module, jnp.ones((2, 3)))), 3 + floats(4, 10, 3)
    y, state = hnet(x, condition=IDS, mutable=True)
    names = {"batch_stats.BatchNorm_0.mean": (4, 4), "batch_stats.BatchNorm_0.var": (4, 4)}
    assert {n: v.shape for n, v in state.items()} == names
    alone = hnet.instantiate(3)
    own, updates = module.apply(alone.variables, x[0], mutable=["batch_stats"])
    close(own, y[0], 1e-5)
    mean = updates["batch_stats"]["BatchNorm_0"]["mean"]
    close(mean, state["batch_stats.BatchNorm_0.mean"][0], 1e-5)
    z = hnet(x, condition=IDS, state=state, train=False)
    one = {n: v[0] for n, v in state.items()}
    close(hnet.instantiate(3, state=one)(x[0], train=False), z[0], 1e-5)


def test_statistics_in_scan() -> None:
    hnet, x = make(NormAndDropout()), floats(6, 4, 10, 3)
    net, params = hl.functional(hnet)
    _, start = net(params, x[0], condition=IDS, mutable=True)

    def step(state: Any, x: Any) -> Any:
        y, state = net(params, x, condition=IDS, state=state, mutable=True)
        return state, y

    state, y = jax.lax.scan(step, start, x)
    expected, last = start, None
    for part in x:
        last, expected = net(params, part, condition=IDS, state=expected, mutable=True)
    close(y[-1], last, 1e-5)
    close(state, expected, 1e-5)


# ---- randomness ---------------------------------------------------------------------------------


def drops(y: jax.Array) -> jax.Array:
    return y == 0


class OnlyDropout(nnx.Module):
    def __init__(self) -> None:
        self.shift = nnx.Param(jnp.ones(64))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self) -> Any:
        return self.dropout(jnp.ones(64) + 0 * self.shift[...])


class LinenDropout(nn.Module):
    @nn.compact
    def __call__(self) -> Any:
        shift = self.param("shift", nn.initializers.ones, (64,))
        return nn.Dropout(0.5, deterministic=False)(jnp.ones(64) + 0 * shift)


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_dropout_draws_anew_for_each_condition_and_from_the_key(kind: str) -> None:
    rng = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    hnet = make(OnlyDropout() if kind == "nnx" else hl.Linen(LinenDropout(), rng=rng))
    key = jax.random.key(7)
    y = drops(hnet(condition=IDS, rngs=key))
    assert len({tuple(row.tolist()) for row in y}) == 4
    assert 0.3 < y.mean() < 0.7
    assert jnp.array_equal(y, drops(hnet(condition=IDS, rngs=key)))
    assert jnp.array_equal(y, drops(hnet(condition=IDS, rngs=nnx.Rngs(key))))
    assert not jnp.array_equal(y, drops(hnet(condition=IDS, rngs=jax.random.key(8))))
    net, params = hl.functional(hnet)
    jitted = jax.jit(lambda params, key: net(params, condition=IDS, rngs=key))
    assert jnp.array_equal(y, drops(jitted(params, key)))


def test_dropout_from_the_streams_of_the_target() -> None:
    hnet = make(OnlyDropout())
    first, second = hnet(condition=IDS), hnet(condition=IDS)
    assert not jnp.array_equal(first, second)
    run = nnx.jit(lambda hnet: hnet(condition=IDS))
    third, fourth = run(hnet), run(hnet)
    assert not jnp.array_equal(third, fourth)
    hnet.eval()
    assert hnet(condition=IDS).all()
    assert jnp.array_equal(run(hnet), run(hnet))


def test_noise_as_condition_draws_from_the_key() -> None:
    target = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    hnet = make(target, condition=hl.Concat(hl.Embedding(5, 4), hl.Noise(3)))
    x = floats(4, 2, 3)
    y = hnet(x, condition=(IDS, None), rngs=jax.random.key(0))
    close(y, hnet(x, condition=(IDS, None), rngs=jax.random.key(0)), 1e-6)
    assert jnp.abs(y - hnet(x, condition=(IDS, None), rngs=jax.random.key(1))).max() > 1e-3
    own = [hnet(x, condition=(IDS, None)) for _ in range(2)]
    assert jnp.abs(own[0] - own[1]).max() > 1e-3
    made = make(target, condition=hl.Noise(3)).generate(6)
    assert made["kernel"].shape == (6, 3, 2)


def test_dropout_in_the_trunk() -> None:
    hnet = make(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), trunk=hl.MLP(16, dropout=0.5))
    a, b = hnet.generate(IDS), hnet.generate(IDS)
    assert not jnp.array_equal(a["kernel"], b["kernel"])
    assert not jnp.array_equal(a["kernel"][0], a["kernel"][2])  # both are id 3
    key = jax.random.key(0)
    close(hnet.generate(IDS, rngs=key), hnet.generate(IDS, rngs=key), 1e-7)
    hnet.eval()
    close(hnet.generate(IDS), hnet.generate(IDS), 1e-7)


# ---- ties, templates ----------------------------------------------------------------------------


class Tied(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(4, 4, rngs=rngs)
        self.second = nnx.Linear(4, 4, rngs=rngs)
        self.second.kernel = self.first.kernel
        self.again = self.first

    def __call__(self, x: Any) -> Any:
        return self.again(self.second(jnp.tanh(self.first(x))))


def test_shared_variables_are_generated_once() -> None:
    hnet = make(Tied())
    assert [(t.name, t.aliases) for t in hnet.plan.spec] == [
        ("again.bias", ("first.bias",)),
        ("again.kernel", ("first.kernel", "second.kernel")),
        ("second.bias", ()),
    ]
    net = hnet.instantiate(2)
    assert net.first.kernel is net.second.kernel
    assert net.again is net.first
    x = floats(4, 2, 4)
    made = hnet.generate(2)
    kernel, bias, other = (made[n] for n in ("again.kernel", "again.bias", "second.bias"))
    by_hand = (jnp.tanh(x[0] @ kernel + bias) @ kernel + other) @ kernel + bias
    close(hnet(x[0], condition=2), by_hand, 1e-5)


def test_the_template_is_never_changed() -> None:
    target = NormAndDropout(0.5)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(target, nnx.Not(nnx.RngState))))
    graphdef = nnx.graphdef(target)
    hnet = make(target)
    hnet(floats(4, 5, 3), condition=IDS, mutable=True)
    with pytest.raises(ValueError, match=r"^input 0: got a float32 array of shape \(4, 5, 7\)"):
        hnet(floats(4, 5, 7), condition=IDS)
    hnet.eval()
    after = nnx.to_pure_dict(nnx.state(target, nnx.Not(nnx.RngState)))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert nnx.graphdef(target) == graphdef


def test_what_is_learned_is_what_the_plan_counts() -> None:
    hnet = make(NormAndDropout(), layout={"first.*": hl.Full(), "last.bias": hl.Shared()})
    learned = nnx.to_flat_state(nnx.state(hnet, nnx.Param))
    assert sum(v.size for _, v in learned) == hnet.plan.num_parameters
    paths = {path[0] for path, _ in learned}
    assert paths == {"condition", "heads"}
