"""What a target holds beside its layers' parameters: arrays, trees, sown values, collections."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct

import hyperloom.jax as hl
from tests._support.on_jax import over
from tests.on_jax.plain import draws, same

IDS = jnp.array([0, 2, 1])
X = draws(0, 3, 5, 4)


make = partial(over, seed=1, condition=hl.Embedding(3, 2))


def linear() -> nnx.Linear:
    return nnx.Linear(4, 4, rngs=nnx.Rngs(0))


# ---- parameters in other places ------------------------------------------------------------------


@struct.dataclass
class Registered:
    w: Any
    table: Any


class Nested(nnx.Module):
    """Parameters in a registered pytree, in a dict, as a number; one variable without a value."""

    def __init__(self, seed: int = 0) -> None:
        self.linear = linear()
        w = nnx.Param(draws(seed, 4, 4))
        self.pair = nnx.data(Registered(w, draws(seed + 1, 4)))
        self.parts = nnx.Param({"a": draws(seed + 2, 4), "b": draws(seed + 3, 4)})
        self.gain = nnx.Param(1.5)
        self.none = nnx.Param(None)

    def __call__(self, x: Any) -> Any:
        y = self.linear(x) @ self.pair.w[...] + self.pair.table
        parts: Any = self.parts.get_value()
        return (y * parts["a"] + parts["b"]) * self.gain.get_value()


def test_parameters_are_found_wherever_nnx_finds_them(tmp_path: Path) -> None:
    hnet = make(Nested())
    names = ["gain", "linear.bias", "linear.kernel", "pair.w", "parts.a", "parts.b"]
    assert sorted(tensor.name for tensor in hnet.plan.spec) == names
    y = hnet(X, condition=IDS)
    for i, condition in enumerate(IDS):
        net = hnet.instantiate(int(condition))
        assert isinstance(net.gain, nnx.Param)
        assert isinstance(net.pair.table, jax.Array)
        same(net(X[i]), y[i])
    hl.save(hnet, tmp_path / "a")
    same(hl.load(tmp_path / "a", Nested(5))(X, condition=IDS), y)
    kept = make(Nested(), layout={"linear.*": hl.Full()})
    tensors = kept.generate(0)
    assert set(tensors) == {"linear.kernel", "linear.bias"}
    hl.save(kept, tmp_path / "b", with_base=True)
    same(hl.load(tmp_path / "b", Nested(5))(X, condition=IDS), kept(X, condition=IDS))
    assert kept.instantiate(0).gain.get_value() == 1.5


# ---- arrays that are no variables ----------------------------------------------------------------


class Positions(nnx.Module):
    """A table and a counter, both plain attributes."""

    def __init__(self, seed: int = 0) -> None:
        self.linear = linear()
        self.table = nnx.data(draws(seed, 4))
        self.calls = nnx.data(jnp.zeros(()))

    def __call__(self, x: Any) -> Any:
        self.calls = self.calls + 1
        return self.linear(x + self.table) * self.calls


def test_plain_arrays_are_saved_and_their_changes_returned(tmp_path: Path) -> None:
    hnet = make(Positions())
    y, state = hnet(X, condition=IDS, mutable=True)
    assert set(state) == {"calls"}  # the table is not copied for each condition
    assert state["calls"].tolist() == [1, 1, 1]
    again, state = hnet(X, condition=IDS, state=state, mutable=True)
    same(again, 2 * y)
    assert state["calls"].tolist() == [2, 2, 2]
    with pytest.warns(UserWarning, match="it updates its state, 'calls' first, which is not kept"):
        same(hnet(X, condition=IDS), y)
    hl.save(hnet, tmp_path / "a")
    read, _ = hl.load(tmp_path / "a", Positions(3))(X, condition=IDS, mutable=True)
    same(read, y)
    net = hnet.instantiate(1, state={"calls": jnp.asarray(4.0)})
    same(net(X[2]), 5 * y[2])
    tables = draws(9, 3, 4)
    own, _ = hnet(X, condition=IDS, state={"table": tables}, mutable=True)
    same(
        own,
        hnet(X + (tables - hnet.target.state()["table"])[:, None], condition=IDS, mutable=True)[0],
    )


def test_every_way_of_running_returns_changed_arrays() -> None:
    hnet = make(Positions())
    once, _ = hnet(X, condition=IDS, mutable=True)
    _, state = hnet(X[0], condition=2, mutable=True)  # one condition
    assert state["calls"].shape == ()
    start = {"calls": jnp.array([0.0, 1.0, 4.0])}
    net = hnet.bind(IDS)
    calls = [lambda: net(X, state=start, mutable=True)]
    for execution in (hl.Execution(strategy="loop"), hl.Execution(max_memory=1)):
        hnet.execution = execution
        net_of, own = hl.functional(hnet)
        run = jax.jit(partial(net_of, mutable=True))
        calls.append(partial(run, own, X, condition=IDS, state=start))
    for call in calls:
        y, state = call()
        assert state["calls"].tolist() == [1, 2, 5]
        same(y, once * state["calls"][:, None, None])
    assert hnet.target.state()["calls"] == 0


def masked(seed: int) -> nnx.Conv:
    mask = np.random.RandomState(seed).rand(3, 4, 2) < 0.5
    return nnx.Conv(4, 2, (3,), mask=jnp.asarray(mask), rngs=nnx.Rngs(0))


def test_the_mask_of_a_convolution_is_state(tmp_path: Path) -> None:
    hnet = make(masked(0))
    assert sorted(t.name for t in hnet.plan.spec) == ["bias", "kernel"]
    y = hnet(X, condition=IDS)
    net = hnet.instantiate(2)
    assert (net.mask == masked(0).mask).all()
    same(net(X[1]), y[1])
    hl.save(hnet, tmp_path / "a")
    read = hl.load(tmp_path / "a", masked(1))
    assert (read.instantiate(2).mask == masked(0).mask).all()
    same(read(X, condition=IDS), y)
    masks = jnp.stack(
        [jnp.asarray(masked(seed).mask) for seed in (2, 3, 4)]
    )  # one for each condition
    own = hnet(X, condition=IDS, state={"mask": masks})
    net.mask = masks[1]
    same(own[1], net(X[1]))


# ---- variables whose value is no array -----------------------------------------------------------


class Trees(nnx.Module):
    def __init__(self) -> None:
        self.linear = linear()
        self.carry = nnx.Variable((jnp.zeros(4), jnp.zeros(())))
        self.nothing = nnx.Variable(None)
        self.factor = nnx.Variable(2.0)

    def __call__(self, x: Any) -> Any:
        factor: Any = self.factor.get_value()
        if factor > 1:  # a number: not traced
            total, num = self.carry.get_value()
            self.carry.set_value((total + x.sum(0), num + 1))
        return self.linear(x) * factor


def test_variables_of_tuples_numbers_and_nothing(tmp_path: Path) -> None:
    hnet = make(Trees())
    y, state = hnet(X, condition=IDS, mutable=True)
    assert set(state) == {"carry.0", "carry.1", "factor"}
    same(state["carry.0"], X.sum(1))
    again, after = hnet(X, condition=IDS, state={n: state[n] for n in ("carry.0",)}, mutable=True)
    same(again, y)
    same(after["carry.0"], 2 * X.sum(1))
    hl.save(hnet, tmp_path / "a")
    same(hl.load(tmp_path / "a", Trees())(X, condition=IDS, mutable=True)[0], y)


# ---- sown values ---------------------------------------------------------------------------------


class Sowing(nnx.Module):
    def __init__(self) -> None:
        self.linear = linear()

    def __call__(self, x: Any) -> Any:
        y = self.linear(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # outside of nnx.capture
            self.sow(nnx.Intermediate, "hidden", y)
        return 2 * y


def test_sown_values_come_back() -> None:
    hnet = make(Sowing())
    y = hnet(X, condition=IDS)  # and nothing is said: they are no state
    again, state = hnet(X, condition=IDS, mutable=True)
    same(again, y)
    (hidden,) = state["hidden"]
    same(hidden, y / 2)
    _, state = hnet(X, condition=IDS, state=state, mutable=True)  # as the carry of a scan
    assert len(state["hidden"]) == 1
    with pytest.raises(ValueError, match="state: got the name 'hiden'"):
        hnet(X, condition=IDS, state={"hiden": hidden})


def test_capture_around_the_hypernetwork() -> None:
    hnet = make(Sowing())
    y, found = nnx.capture(hnet, nnx.Intermediate)(X, condition=IDS)
    ((_, value),) = nnx.to_flat_state(found)
    (hidden,) = value.get_value() if isinstance(value, nnx.Variable) else value
    same(hidden, y / 2)
    same(hnet(X, condition=IDS), y)


class LinenSowing(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.Dense(4)(x)
        self.sow("losses", "size", jnp.mean(y**2))
        pair = self.variable("cache", "pair", lambda: (jnp.zeros(4), jnp.zeros(())))
        pair.value = (pair.value[0] + x.sum(0), pair.value[1] + 1)
        return y


def test_losses_that_a_linen_target_sows() -> None:
    hnet = make(hl.Linen(LinenSowing(), X[0]))
    y, state = hnet(X, condition=IDS, mutable=True)
    assert set(state) == {"losses.size", "cache.pair.0", "cache.pair.1"}
    _, after = hnet(X, condition=IDS, state=state, mutable=True)
    for (size,) in (state["losses.size"], after["losses.size"]):
        same(size, jnp.mean(y**2, (1, 2)))
    same(after["cache.pair.0"] - state["cache.pair.0"], X.sum(1))


class Decoder(nn.Module):
    """Counts its tokens in a cache, if it is called so: the cache is made by that call."""

    @nn.compact
    def __call__(self, x: Any, decode: bool = False) -> Any:
        y = nn.Dense(4)(x)
        if decode:
            total = self.variable("cache", "total", jnp.zeros, y.shape)
            total.value = total.value + y
            y = total.value
        return y


def test_collections_that_a_linen_target_makes_in_a_call() -> None:
    hnet = make(hl.Linen(Decoder(), X[0]))
    y = hnet(X, condition=IDS)
    once, state = hnet(X, condition=IDS, decode=True, mutable=True)
    twice, state = hnet(X, condition=IDS, decode=True, state=state, mutable=True)
    same(once, y)
    same(twice, 2 * y)
    assert list(state) == ["cache.total"]
    with pytest.warns(UserWarning, match="its state, 'cache.total' first, which is not kept"):
        same(hnet(X, condition=IDS, decode=True), y)


# ---- other settings of JAX -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "choices",
    [
        {"trunk": hl.MLP(5, norm="layer"), "layout": hl.Chunked(7, 2)},
        {"form": {"kernel": hl.LoRA(1), "bias": hl.Shift()}, "trunk": hl.MLP(5, norm="rms")},
        {"form": {"kernel": hl.RankOne()}, "layout": {"bias": hl.PerCondition(), "*": hl.Full()}},
    ],
)
def test_where_arrays_of_other_ranks_may_not_be_added(choices: dict[str, Any]) -> None:
    def loss(params: Any, net: Any, x: Any, ids: Any) -> Any:
        return jnp.sum(net(params, x, condition=ids) ** 2)

    class Strict(nnx.Module):
        def __init__(self) -> None:
            self.kernel = nnx.Param(draws(1, 4, 4))
            self.bias = nnx.Param(draws(2, 4))

        def __call__(self, x: Any) -> Any:
            return x @ self.kernel[...] + self.bias[None]

    ids = jnp.arange(8) % 3
    x = draws(3, 8, 1, 4)
    results = []
    for rule in ("allow", "raise"):
        with jax.numpy_rank_promotion(rule):
            hnet = make(Strict(), **choices)
            net, params = hl.functional(hnet)
            grads = jax.jit(jax.grad(loss))(params, net, x, ids)
            results.append((grads, hnet.generate(0)))
    same(results[1], results[0])


def test_the_targets_own_sums_are_still_refused() -> None:
    class Loose(nnx.Module):
        def __init__(self) -> None:
            self.bias = nnx.Param(draws(2, 4))

        def __call__(self, x: Any) -> Any:
            return x + self.bias[...]

    with jax.numpy_rank_promotion("raise"):
        hnet = make(Loose())
        with pytest.raises(ValueError, match="rank_promotion"):
            hnet(X, condition=IDS)


def test_the_table_of_nnx() -> None:
    table = nnx.tabulate(make(Sowing(), trunk=hl.MLP(3)), X, condition=IDS)
    assert "HyperNetwork Summary" in table
    assert np.sum(["heads" in line for line in table.splitlines()]) >= 1
