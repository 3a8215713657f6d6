"""JAX's and Flax's own tools on hypernetworks: jit, grad, vmap, scan, split, optax, orbax."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.test_util import check_grads

import hyperloom.jax as hl
from tests.on_jax.test_batch_equals_loop import IDS, X, _hnet, close


@pytest.fixture
def hnet() -> hl.HyperNetwork:
    return _hnet(trunk=hl.MLP(6), layout=hl.Chunked(11, 3))


def loss(y: Any) -> Any:
    return jnp.mean(jnp.sin(y) ** 2)


def test_jit_of_the_module_and_of_the_function(hnet: hl.HyperNetwork) -> None:
    y = hnet(X, condition=IDS)
    close(nnx.jit(lambda hnet, x, ids: hnet(x, condition=ids))(hnet, X, IDS), y, 1e-5)
    net, params = hl.functional(hnet)
    close(jax.jit(lambda p, x, ids: net(p, x, condition=ids))(params, X, IDS), y, 1e-5)
    close(jax.jit(lambda x, ids: hnet(x, condition=ids))(X, IDS), y, 1e-5)


def test_jit_compiles_once_for_all_values(hnet: hl.HyperNetwork) -> None:
    net, params = hl.functional(hnet)
    traced = []

    @jax.jit
    def run(params: Any, x: Any, ids: Any) -> Any:
        traced.append(1)
        return net(params, x, condition=ids)

    for shift in range(3):
        run(jax.tree.map(lambda p, s=shift: p + s, params), X + shift, (IDS + shift) % 5)
    assert len(traced) == 1


def test_grad_of_the_module_and_of_the_function(hnet: hl.HyperNetwork) -> None:
    net, params = hl.functional(hnet)
    by_function = jax.jit(jax.grad(lambda p: loss(net(p, X, condition=IDS))))(params)
    by_module = nnx.jit(nnx.grad(lambda h: loss(h(X, condition=IDS))))(hnet)
    flat = {".".join(map(str, p)): v[...] for p, v in nnx.to_flat_state(by_module)}
    close(flat, by_function, 1e-6)


@pytest.mark.usefixtures("double")
def test_grad_by_differences() -> None:
    rngs = nnx.Rngs(0)
    target = nnx.Linear(4, 2, param_dtype=jnp.float64, rngs=rngs)
    choices: dict[str, Any] = {
        "trunk": hl.MLP(6, activation="tanh"),
        "layout": hl.Chunked(7, 3),
    }
    made = hl.HyperNetwork(target, condition=hl.Vector(3), rngs=rngs, **choices)
    net, params = hl.functional(made)
    x, vectors = jnp.asarray(np.random.randn(3, 5, 4)), jnp.asarray(np.random.randn(3, 3))

    @jax.jit  # one program, where single operations would each be compiled
    def fn(args: Any) -> Any:
        return loss(net(args[0], x, condition=args[1]))

    check_grads(fn, ((params, vectors),), order=1, modes=["fwd", "rev"], rtol=1e-5)


def test_vmap_around_a_batch(hnet: hl.HyperNetwork) -> None:
    net, params = hl.functional(hnet)
    xs = jnp.stack([X, 2 * X])
    made = jax.jit(jax.vmap(lambda x: net(params, x, condition=IDS)))(xs)
    close(made, jnp.stack([hnet(x, condition=IDS) for x in xs]), 1e-5)
    by_id = jax.jit(jax.vmap(lambda x, i: net(params, x, condition=i)))(X, IDS)
    close(by_id, hnet(X, condition=IDS), 1e-5)


def test_vmap_over_hypernetworks(hnet: hl.HyperNetwork) -> None:
    net, params = hl.functional(hnet)
    several = jax.tree.map(lambda p: jnp.stack([p, p + 0.1, p - 0.1]), params)
    made = jax.jit(jax.vmap(lambda p: net(p, X, condition=IDS)))(several)
    one = jax.tree.map(lambda p: p + 0.1, params)
    close(made[1], net(one, X, condition=IDS), 1e-5)


def test_a_training_loop_in_scan(hnet: hl.HyperNetwork) -> None:
    net, params = hl.functional(hnet)
    optimizer = optax.sgd(0.1)

    def step(carry: Any, ids: Any) -> Any:
        params, state = carry
        value, gradient = jax.value_and_grad(lambda p: loss(net(p, X[:2], condition=ids)))(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    batches = jnp.array([[0, 1], [2, 3], [4, 0]])
    start = (params, optimizer.init(params))
    (scanned, _), values = jax.lax.scan(step, start, batches)
    carry = start
    jitted = jax.jit(step)
    for i, ids in enumerate(batches):
        carry, value = jitted(carry, ids)
        close(value, values[i], 1e-6)
    close(carry[0], scanned, 1e-5)


def test_split_and_merge(hnet: hl.HyperNetwork) -> None:
    graphdef, params, rest = nnx.split(hnet, nnx.Param, ...)
    again = nnx.merge(graphdef, params, rest)
    assert again.plan == hnet.plan
    close(again(X, condition=IDS), hnet(X, condition=IDS), 1e-6)
    copy = nnx.clone(hnet)
    close(copy(X, condition=IDS), hnet(X, condition=IDS), 1e-6)


def test_training_with_optax_through_nnx(hnet: hl.HyperNetwork) -> None:
    optimizer = nnx.Optimizer(hnet, optax.adam(1e-2), wrt=nnx.Param)
    goal = jnp.sin(jnp.arange(6.0))[:, None, None] * jnp.ones((6, 3, 2))

    @nnx.jit
    def step(hnet: Any, optimizer: Any) -> Any:
        def of(hnet: Any) -> Any:
            return jnp.mean((hnet(X, condition=IDS) - goal) ** 2)

        value, gradient = nnx.value_and_grad(of)(hnet)
        optimizer.update(hnet, gradient)
        return value

    first = step(hnet, optimizer)
    last = min(step(hnet, optimizer) for _ in range(60))
    assert last < 0.5 * first


def test_functional_parameters_go_back_into_the_module(hnet: hl.HyperNetwork) -> None:
    net, params = hl.functional(hnet)
    moved = jax.tree.map(lambda p: p + 0.1, params)
    y = net(moved, X, condition=IDS)
    assert jnp.abs(hnet(X, condition=IDS) - y).max() > 1e-3
    close(net.merge(moved)(X, condition=IDS), y, 1e-6)
    net.update(hnet, moved)
    close(hnet(X, condition=IDS), y, 1e-6)
    close(net.generate(moved, IDS), hnet.generate(IDS), 1e-6)


def test_functional_refuses_other_names(hnet: hl.HyperNetwork) -> None:
    net, params = hl.functional(hnet)
    some = dict(list(params.items())[1:])
    with pytest.raises(ValueError, match=r"params: got no array for 'condition\.table\.blocks\.0'"):
        net(some, X, condition=IDS)
    with pytest.raises(ValueError, match=r"params: got the name 'more'; wanted names of the hyp"):
        net({**params, "more": X}, X, condition=IDS)


def test_orbax_keeps_the_parameters(hnet: hl.HyperNetwork, tmp_path: Path) -> None:
    y = hnet(X, condition=IDS)
    state = nnx.state(hnet, nnx.Param)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path.resolve() / "state", nnx.to_pure_dict(state))
        checkpointer.wait_until_finished()
        other = _hnet(trunk=hl.MLP(6), layout=hl.Chunked(11, 3), condition=hl.Embedding(5, 4))
        net, params = hl.functional(other)
        net.update(other, jax.tree.map(lambda p: p + 1, params))
        like = nnx.to_pure_dict(nnx.state(other, nnx.Param))
        read = checkpointer.restore(tmp_path.resolve() / "state", like)
    nnx.update(other, read)
    close(other(X, condition=IDS), y, 1e-6)


# As users compile: where tests/conftest.py sets flags, a second means less.
USUAL: Any = {
    "xla_cpu_opt_preset": "CPU_OPT_PRESET_DEFAULT",
    "xla_backend_optimization_level": 3,
    "xla_cpu_use_fusion_emitters": True,
}
QUICK = "xla_cpu_use_fusion_emitters" in os.environ.get("XLA_FLAGS", "")


def test_512_chunks_compile_like_a_few() -> None:
    """One product for all chunks: what is compiled does not grow with their number."""

    def compiled(chunks: int) -> tuple[int, float]:
        target = nnx.Linear(64, 512, use_bias=False, rngs=nnx.Rngs(0))
        layout = hl.Chunked(64 * 512 // chunks, 4)
        made = hl.HyperNetwork(
            target, condition=hl.Embedding(2, 4), layout=layout, rngs=nnx.Rngs(0)
        )
        assert made.plan.heads[0].num_slots == chunks
        net, params = hl.functional(made)
        fn = jax.value_and_grad(lambda p, x: loss(net(p, x, condition=jnp.arange(2))))
        x = jnp.ones((2, 3, 64))
        start = time.process_time()
        lowered = jax.jit(fn).lower(params, x)
        size = len(lowered.as_text().splitlines())
        lowered.compile(USUAL if QUICK else None)
        return size, time.process_time() - start

    few, _ = compiled(4)
    many, seconds = compiled(512)
    assert many <= 1.1 * few
    assert seconds < 1


def test_dispatch_costs_what_jit_of_a_function_of_arrays_costs(hnet: hl.HyperNetwork) -> None:
    net, params = hl.functional(hnet)
    run = jax.jit(lambda p, x, ids: net(p, x, condition=ids))
    plain = jax.jit(lambda p, x, ids: sum(v.sum() for v in p.values()) + x.sum() + ids.sum())

    def seconds(fn: Any) -> float:
        fn(params, X, IDS).block_until_ready()
        best = float("inf")
        for _ in range(5):
            start = time.process_time()
            for _ in range(200):
                fn(params, X, IDS)
            best = min(best, (time.process_time() - start) / 200)
        return best

    # Both call the same compiled path; what this hypernetwork computes takes microseconds.
    assert seconds(run) < seconds(plain) + 200e-6


class Reader(nnx.Module):
    """Tokens, a convolution over them, a linear layer."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(9, 3, rngs=rngs)
        self.conv = nnx.Conv(3, 4, (3,), rngs=rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        return self.out(jax.nn.relu(self.conv(self.embed(tokens))))


@pytest.mark.parametrize(
    "form",
    [
        hl.Whole(),
        {"embed.embedding": hl.LoRA(1), "conv.kernel": hl.Templates(2), "out.kernel": hl.Scale()},
    ],
    ids=["whole", "in parts"],
)
def test_export_with_sizes_that_are_symbols(form: Any) -> None:
    choices: dict[str, Any] = {"condition": hl.Embedding(3, 2), "form": form}
    made = hl.HyperNetwork(Reader(), rngs=nnx.Rngs(1), **choices)

    @jax.jit
    def run(tokens: Any, ids: Any) -> Any:
        return made(tokens, condition=ids)

    conditions, rows = jax.export.symbolic_shape("b, n")
    shapes = (conditions, rows, 6), (conditions,)
    exported = jax.export.export(run)(*(jax.ShapeDtypeStruct(s, jnp.int32) for s in shapes))
    for num in (2, 7):  # fewer and more rows than ids
        tokens = jnp.asarray(np.random.randint(0, 9, (num, 4, 6)), jnp.int32)
        ids = jnp.arange(num, dtype=jnp.int32) % 3
        close(exported.call(tokens, ids), run(tokens, ids), 1e-5)
    made.execution = hl.Execution(max_memory=1)
    with pytest.raises(ValueError, match=r"execution: got .* with b conditions"):
        jax.export.export(jax.jit(lambda *a: made(a[0], condition=a[1])))(
            *(jax.ShapeDtypeStruct(s, jnp.int32) for s in shapes)
        )
