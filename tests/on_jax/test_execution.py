"""How batches are run: at once, in parts, one after the other; and what is drawn in them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import hyperloom.jax as hl
from hyperloom import SlowWarning
from tests._support.on_jax import over
from tests.on_jax.plain import draws, same

IDS = jnp.array([0, 2, 1, 0])


make = partial(over, seed=1, condition=hl.Embedding(3, 2))


class Noisy(nnx.Module):
    """Linear, then dropout; counts its calls."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.linear = nnx.Linear(3, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, x: Any) -> Any:
        self.calls[...] += 1
        return self.dropout(self.linear(x))


@pytest.mark.parametrize("form", [hl.Whole(), {"linear.kernel": hl.LoRA(1)}])
def test_the_loop_is_what_a_batch_is(form: Any) -> None:
    hnet, x, key = make(Noisy(), form=form), draws(0, 4, 5, 3), jax.random.key(3)
    wanted, state = hnet(x, condition=IDS, rngs=key, mutable=True)
    hnet.execution = hl.Execution(strategy="loop")
    y, left = hnet(x, condition=IDS, rngs=key, mutable=True)
    same(y, wanted)
    same(left, state)
    assert left["calls"].tolist() == [1] * 4
    given, _ = hnet.run(hnet.generate(IDS), x, rngs=key, mutable=True)
    same(given, wanted)
    explained = hnet.explain(x, condition=IDS)
    assert explained.strategy == "loop"
    assert "one condition after the other" in explained.reason
    text = jax.jit(lambda x: hnet(x, condition=IDS, rngs=key, mutable=True)).lower(x).as_text()
    assert "while" in text


def test_the_same_draws_for_all_conditions() -> None:
    hnet, x = make(Noisy()), jnp.broadcast_to(draws(0, 5, 3), (4, 5, 3))

    def dropped() -> np.ndarray:
        return np.asarray(hnet(x, condition=IDS, rngs=jax.random.key(0), mutable=True)[0] == 0)

    masks = dropped()
    assert any((mask != masks[0]).any() for mask in masks)
    for execution in (
        hl.Execution(randomness="same"),
        hl.Execution(randomness="same", max_memory=1),
        hl.Execution(randomness="same", strategy="loop"),
    ):
        hnet.execution = execution
        masks = dropped()
        assert 0.2 < masks.mean() < 0.8
        assert all((mask == masks[0]).all() for mask in masks)


def test_parts_of_a_batch_with_two_dimensions() -> None:
    hnet = make(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    ids, x = jnp.array([[0, 1, 2], [2, 1, 0]]), draws(0, 2, 3, 5, 3)
    wanted = hnet(x, condition=ids)
    hnet.execution = hl.Execution(max_memory=hnet.plan.output_bytes(4))
    same(hnet(x, condition=ids), wanted)
    text = jax.jit(lambda x: hnet(x, condition=ids)).lower(x).as_text()
    assert "while" in text


@pytest.mark.parametrize("execution", [{"strategy": "loop"}, {"max_memory": 1}])
def test_conditions_that_an_explicit_mesh_cuts(execution: dict[str, Any]) -> None:
    """By default the axes of a mesh are explicit, and arrays know how they are cut."""
    hnet, x = make(nnx.Linear(3, 2, rngs=nnx.Rngs(0))), draws(0, 4, 5, 3)
    wanted = hnet(x, condition=IDS)
    mesh = jax.make_mesh((1,), ("conditions",))
    over, whole = (NamedSharding(mesh, P(*axes)) for axes in (("conditions",), ()))
    hnet.execution = hl.Execution(**execution)
    net, params = hl.functional(hnet)
    x, ids, params = *jax.device_put((x, IDS), over), jax.device_put(params, whole)

    @partial(jax.value_and_grad, has_aux=True)
    def loss(params: Any) -> Any:
        y = net(params, x, condition=ids)
        return jnp.sum(y**2), y

    (_, y), gradient = jax.jit(loss)(params)
    same(y, wanted)
    assert y.sharding.spec[0] == "conditions"
    assert all(g.sharding.is_fully_replicated for g in gradient.values())


class Experts(nnx.Module):
    """A mixture of experts, whose product JAX has no rule to batch for."""

    def __init__(self) -> None:
        self.kernel = nnx.Param(draws(1, 2, 3, 4))

    def __call__(self, x: Any) -> Any:
        return jax.lax.ragged_dot(x, self.kernel[...], jnp.array([2, 3]))


def test_what_jax_cannot_batch_runs_in_a_loop() -> None:
    hnet, x = make(Experts()), draws(0, 4, 5, 3)
    with pytest.warns(SlowWarning, match="target: run on one condition after the other, as ragged"):
        y = hnet(x, condition=IDS)
    same(y, jnp.stack([hnet(x[i], condition=IDS[i]) for i in range(4)]))
    same(hnet(x, condition=IDS), y)  # said once
    net, params, *_ = hl.functional(hnet)
    grads = jax.grad(lambda p: jnp.sum(net(p, x, condition=IDS) ** 2))(params)
    one = jax.grad(lambda p: sum(jnp.sum(net(p, x[i], condition=IDS[i]) ** 2) for i in range(4)))(
        params
    )
    same(grads, one, 1e-4)
    explained = hnet.explain(x, condition=IDS)
    assert explained.strategy == "loop"
    assert "JAX cannot run the target for all conditions at once" in explained.reason
    hnet.execution = hl.Execution(strategy="vmap")
    with pytest.raises(NotImplementedError, match="ragged_dot"):
        hnet(x, condition=IDS)


@pytest.mark.parametrize("execution", ["nonsense", 5, hl.Execution])
def test_an_execution_that_is_none_is_refused(execution: Any) -> None:
    target = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"execution: got .*; wanted an Execution"):
        make(target, execution=execution)
    hnet = make(target)
    hnet.execution = execution
    with pytest.raises(TypeError, match=r"execution: got .*; wanted an Execution"):
        hnet(jnp.ones(3), condition=0)


def test_ways_can_be_forced_and_are_told() -> None:
    hnet = hl.HyperNetwork(Flattened(), condition=hl.Vector(4), rngs=nnx.Rngs(1))
    x, c = jnp.ones((8, 3, 5, 5, 1)), jax.random.normal(jax.random.key(0), (8, 4))
    wanted = hnet(x, condition=c)
    for way in ("dense", "inputs", "outputs"):
        hnet.execution = hl.Execution(ways={"fc.*": way})
        np.testing.assert_allclose(hnet(x, condition=c), wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(hnet.bind(c)(x), wanted, rtol=1e-4, atol=1e-5)
        used = hnet.explain(x, condition=c)["fc.kernel"]
        assert used.layer is not None
        assert (used.choice, used.layer.rows) == (way, 3)
    hnet.execution = hl.Execution(ways={"conv.kernel": "inputs"})
    with pytest.raises(ValueError, match=r"'inputs' for 'conv.kernel'; wanted 'dense' or"):
        hnet(x, condition=c)
    layout = {"fc.kernel": hl.Full()}
    lora = hl.HyperNetwork(
        Flattened(), condition=hl.Vector(4), layout=layout, form=hl.LoRA(2), rngs=nnx.Rngs(1)
    )
    lora.execution = hl.Execution(ways={"fc.kernel": "outputs"})
    with pytest.raises(ValueError, match="wanted 'dense': it is no sum of templates"):
        lora(x, condition=c)
    lora.execution = hl.Execution(ways={"fc.kernel": "dense"})
    assert lora.explain(x, condition=c)["fc.kernel"].choice == "dense"
    lora.execution = hl.Execution(ways={"third.*": "dense"})
    with pytest.raises(ValueError, match=r"Execution\(ways=\): got the pattern 'third.\*'"):
        lora(x, condition=c)


def test_unused_and_shared_tensors_are_named_and_layers_count_their_rows() -> None:
    layout = {"fc.*": hl.Full(), "unused.*": hl.Full(), "conv.*": hl.Shared()}
    hnet = hl.HyperNetwork(Flattened(), condition=hl.Vector(64), layout=layout, rngs=nnx.Rngs(1))
    told = hnet.explain(jnp.ones((40, 1, 5, 5, 1)), condition=jnp.ones((40, 64)))
    assert told["unused.kernel"].choice == told["unused.bias"].choice == "unused"
    assert told["conv.kernel"].choice == told["conv.bias"].choice == "shared"
    fc = told["fc.kernel"]
    assert fc.layer is not None
    assert fc.layer.rows == 1  # of 25 that the input seems to have


class Flattened(nnx.Module):
    """A convolution, flattened, a linear layer; and one that is not used."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(1, 2, (3, 3), padding="VALID", rngs=rngs)
        self.fc = nnx.Linear(18, 4, rngs=rngs)
        self.unused = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.conv(x).reshape(x.shape[0], -1))


def test_a_strategy_of_pytorch_is_refused() -> None:
    rows, wanted = (
        hl.Execution(strategy="rows"),
        r"^execution: got the strategy 'rows'; wanted 'auto'",
    )
    with pytest.raises(ValueError, match=wanted):
        make(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), execution=rows)
    hnet = make(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    hnet.execution = rows
    with pytest.raises(ValueError, match=wanted):
        hnet(draws(0, 4, 3), condition=IDS)
