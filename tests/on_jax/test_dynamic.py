"""Conditions that carry a state, and `Given`, in JAX: against PyTorch, NumPy and loops."""

from __future__ import annotations

import functools
from functools import partial
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
from hyperloom._core.reference import executor
from hyperloom.jax._tools.checkpoint import neutral_tensors
from tests._support import compare
from tests._support.on_jax import over

DIM, HIDDEN = 3, 5
CELLS = ["rnn", "gru", "lstm"]


class Target(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(4, 4, rngs=rngs)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.last(jnp.tanh(self.first(x)))


@functools.cache  # JAX takes seconds to make one
def plain(cell: str = "gru") -> hl.HyperNetwork:
    return over_target(cell)


def over_target(cell: str = "gru", **choices: Any) -> hl.HyperNetwork:
    choices = {"condition": hl.Recurrent(DIM, HIDDEN, cell=cell), **choices}
    return over(Target(nnx.Rngs(1)), **choices)


def draws(seed: int, *shape: int) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


close = partial(compare.close, tolerance=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_numbers_are_those_of_torch_and_numpy(cell: str) -> None:
    net, learned = hl.functional(plain(cell))
    hnet, call = plain(cell), jax.jit(functools.partial(net.generate, learned))
    tensors = {name: np.asarray(a) for name, a in neutral_tensors(hnet, with_base=True).items()}
    theirs = hlt.HyperNetwork(
        torch.nn.Linear(1, 1), condition=hlt.Recurrent(DIM, HIDDEN, cell=cell)
    ).condition
    start = "condition."
    own = {n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)}
    theirs.load_state_dict({name: torch.tensor(v) for name, v in own.items()})
    state = torch_state = numpy_state = None
    choice: Any = hnet.plan.condition
    for step in range(2):
        c = draws(step, 6, DIM)
        params, state = call(c, carry=state)
        torch_state = theirs(torch.tensor(np.asarray(c)), torch_state).carry
        close(state, jax.tree.map(lambda t: t.detach().numpy(), torch_state))
        first = np.asarray(c[0])
        made = executor.generate(hnet.plan, tensors, (first, numpy_state))
        numpy_state = executor.recurrent_step(choice, tensors, first, numpy_state)
        close({name: value[0] for name, value in params.items()}, made)


@pytest.mark.parametrize("cell", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_a_batch_is_a_loop_and_unroll_is_a_loop_over_steps(cell: str) -> None:
    net, params = hl.functional(plain(cell))
    c, x = draws(0, 3, 2, DIM), draws(1, 3, 2, 7, 4)

    @jax.jit
    def call(x: Array, c: Array, carry: Any) -> Any:
        return net(params, x, condition=c, carry=carry)

    @jax.jit
    def steps(x: Array, c: Array, carry: Any) -> Any:
        return hl.unroll(net.merge(params), x, condition=c, carry=carry)

    ys, last = steps(x, c, None)
    state: Any = None
    states: list[Any] = [None, None]
    for step in range(3):
        y, state = call(x[step], c[step], state)
        close(ys[step], y)
        for i in range(2):
            alone, states[i] = call(x[step, i], c[step, i], states[i])
            close(y[i], alone)
    close(last, state)
    close(steps(x[:1], c[:1], last)[0][0], call(x[0], c[0], last)[0])
    close(steps(x[:, 0], c[:, 0], None)[0], ys[:, 0])


def test_what_is_compiled_does_not_grow_with_the_steps() -> None:
    net, params = hl.functional(plain("lstm"))

    def size(steps: int) -> int:
        def run(params: Any, x: Array, c: Array) -> Any:
            return hl.unroll(net.merge(params), x, condition=c)

        made = jax.make_jaxpr(run)(params, draws(0, steps, 2, 4), draws(1, steps, 2, DIM))
        return str(made).count("dot_general")

    assert size(3) == size(50) > 0


def test_gradients_through_time_and_functional() -> None:
    net, params = hl.functional(plain())
    c, x = draws(0, 3, 2, DIM), draws(1, 3, 2, 4)

    def loss(params: Any, c: Array) -> Array:
        y, state = net(params, x[0], condition=c[0])
        for step in (1, 2):
            y, state = net(params, x[step], condition=c[step], carry=state)
        return y.sum()

    by_params, by_c = jax.jit(jax.grad(loss, (0, 1)))(params, c)
    assert (jnp.abs(by_c[0]) > 0).all()
    assert all(jnp.abs(g).sum() > 0 for g in jax.tree.leaves(by_params))
    made, state = net.generate(params, c[0])
    assert made["first.kernel"].shape == (2, 4, 4)
    assert state.shape == (2, HIDDEN)


class Running(nnx.Module):
    """The mean of all vectors so far, and their number."""

    dim = DIM
    has_carry = True

    def __call__(self, x: Array, carry: Any) -> tuple[Array, Any]:
        total, count = (jnp.zeros_like(x), 0) if carry is None else carry
        total, count = total + x, count + 1
        return total / count, (total, count)


@pytest.mark.slow  # seconds of compilation
def test_a_module_of_ones_own_and_parts_side_by_side() -> None:
    hnet = over_target(condition=hl.Concat(hl.Embedding(4, 2), Running()))
    ids, c, x = jnp.array([3, 0]), draws(0, 4, 2, DIM), draws(1, 4, 2, 4)
    net, params = hl.functional(hnet)
    call = jax.jit(functools.partial(net, params))
    ys, last = hl.unroll(hnet, x, condition=(jnp.broadcast_to(ids, (4, 2)), c))
    assert last[0] is None
    assert int(last[1][1]) == 4
    state = None
    for step in range(4):
        y, state = call(x[step], condition=(ids, c[step]), carry=state)
        close(ys[step], y)
    same, _ = hl.unroll(hnet, x[:, 0], condition=(3, c[:, 0]))
    close(same, ys[:, 0])


@pytest.mark.slow  # seconds of compilation
def test_linen_targets_too() -> None:
    import flax.linen as nn

    target = hl.Linen(nn.Dense(2), jnp.zeros((1, 4)))
    hnet = hl.HyperNetwork(target, condition=hl.Recurrent(4, HIDDEN), rngs=nnx.Rngs(0))
    x = draws(0, 3, 4)
    y, state = hnet(x, condition=x)
    close(hnet.instantiate(x[1])(x[1]), y[1])
    assert state.shape == (3, HIDDEN)


def test_given_is_the_target_as_a_function_of_a_flat_vector() -> None:
    spec = hl.target_spec(Target(nnx.Rngs(1)))
    num = spec.num_parameters
    hnet = over_target(condition=hl.Vector(num), layout=hl.Given())
    flat, x = draws(0, 3, num), draws(1, 3, 7, 4)
    y = hnet(x, condition=flat)
    for i in range(2):
        start, params = 0, {}
        for tensor in spec:
            params[tensor.name] = flat[i, start : start + tensor.numel].reshape(tensor.shape)
            start += tensor.numel
        close(y[i], hnet.run(params, x[i]))
        made = executor.generate(hnet.plan, {}, np.asarray(flat[i]))
        close(params, made)
    trunk = nnx.Linear(3, num, rngs=nnx.Rngs(2))
    hnet = over_target(condition=hl.Vector(3), trunk=trunk, layout=hl.Given())
    c = draws(2, 3, 3)
    close(
        hnet(x, condition=c),
        over_target(condition=hl.Vector(num), layout=hl.Given())(x, condition=trunk(c)),
    )


def test_bad_states_and_values() -> None:
    hnet, c, x = plain(), draws(0, 2, DIM), draws(1, 2, 4)
    with pytest.raises(ValueError, match=r"carry: got .*\(3, 5\); wanted None, or an array"):
        hnet(x, condition=c, carry=draws(2, 3, HIDDEN))
    with pytest.raises(TypeError, match=r"carry: got .*wanted None, or a pair of arrays"):
        plain("lstm")(x, condition=c, carry=draws(2, 2, HIDDEN))
    with pytest.raises(ValueError, match=r"condition: got .*\(2, 4\); wanted a floating array"):
        hnet(x, condition=x)
    with pytest.raises(TypeError, match="condition: got 3; wanted a floating array"):
        hnet(x, condition=3)
    other = over_target(condition=hl.Vector(DIM))
    with pytest.raises(TypeError, match=r"carry: got one with Vector\(3\); wanted .*Recurrent"):
        hl.unroll(other, x, condition=c)
    with pytest.raises(TypeError, match=r"carry: got one with Vector\(3\)"):
        other.generate(c, carry=c)
    both = over_target(condition=hl.Concat(hl.Vector(2), Running()))
    with pytest.raises(ValueError, match="condition: got no array"):
        hl.unroll(both, x, condition=(1.0, 0.0))
    with pytest.raises(ValueError, match=r"inputs: got shape \(2, 4\); wanted \(T, \*batch\)"):
        hl.unroll(hnet, x, condition=draws(2, 5, 2, DIM))
    with pytest.raises(TypeError, match=r"carry: got .*wanted a tuple of 2 states"):
        both(x, condition=(draws(2, 2, 2), c), carry=c)


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_a_scan_starts_from_the_initial_carry(cell: str) -> None:
    hnet = plain(cell)
    net, params = hl.functional(hnet)
    c, x = draws(0, 3, 2, DIM), draws(1, 3, 2, 4)

    def step(carry: Any, now: Any) -> Any:
        x, c = now
        y, carry = net(params, x, condition=c, carry=carry)
        return carry, y

    last, ys = jax.jit(lambda start: jax.lax.scan(step, start, (x, c)))(hnet.initial_carry(2))
    wanted, expected = hl.unroll(hnet, x, condition=c)
    close(ys, wanted)
    close(last, expected)
    alone = hnet.initial_carry()
    assert jax.tree.structure(alone) == jax.tree.structure(last)
    assert {leaf.shape for leaf in jax.tree.leaves(alone)} == {(HIDDEN,)}
    assert {leaf.shape for leaf in jax.tree.leaves(hnet.initial_carry((2, 5)))} == {(2, 5, HIDDEN)}


class Counter(nnx.Module):
    """A state of one's own."""

    dim, has_carry = DIM, True

    def __call__(self, value: Any, carry: Any) -> Any:
        carry = jnp.zeros(value.shape[:-1]) if carry is None else carry
        return value * carry[..., None], carry + 1

    def initial_carry(self, batch: tuple[int, ...]) -> Any:
        return jnp.ones(batch)


class Startless(Counter):
    initial_carry: Any = None


def test_the_initial_carry_of_parts_and_modules() -> None:
    target = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    parts = hl.Concat(hl.Embedding(3, 2), hl.Recurrent(DIM, HIDDEN, cell="rnn"), Counter())
    hnet = hl.HyperNetwork(target, condition=parts, rngs=nnx.Rngs(0))
    none, hidden, count = hnet.initial_carry(2)
    assert none is None
    assert hidden.shape == (2, HIDDEN)
    np.testing.assert_array_equal(count, [1, 1])
    startless = hl.HyperNetwork(target, condition=Startless(), rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="condition: got a Startless without a method `initial_"):
        startless.initial_carry()
    with pytest.raises(TypeError, match="carry: got one with Embedding"):
        hl.HyperNetwork(target, condition=hl.Embedding(3, 2), rngs=nnx.Rngs(0)).initial_carry()
    wrong: Any = "2"
    with pytest.raises(TypeError, match="batch: got '2'; wanted an int of at least 0"):
        plain("rnn").initial_carry(wrong)
    with pytest.raises(ValueError, match="batch: got -1; wanted an int of at least 0"):
        plain("rnn").initial_carry((2, -1))
