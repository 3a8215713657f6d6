"""Pure functions of a tree of parameters as targets, and Equinox modules through them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hl
from tests.on_jax.plain import draws, same
from tests.parity.test_parity_jax import check

KEY = jax.random.key(0)
IDS = jnp.array([3, 0, 1])
WRONG: Any = 3


def by_hand() -> tuple[Any, Any]:
    """Nested dicts and a list of pairs, with arrays and other leaves that are no parameters."""
    tree = {
        "first": {"w": draws(0, 3, 4), "b": draws(1, 4)},
        "layer_norm": {"scale": jnp.ones(4), "offset": jnp.zeros(4)},
        "rest": [(draws(2, 4, 4), draws(3, 4)), (draws(4, 4, 2), draws(5, 2))],
        "order": jnp.array([1, 0]),
        "activation": jnp.tanh,
    }

    def network(p: Any, x: Any) -> Any:
        x = x @ p["first"]["w"] + p["first"]["b"]
        x = (x - x.mean(-1, keepdims=True)) * p["layer_norm"]["scale"] + p["layer_norm"]["offset"]
        for w, b in p["rest"]:
            x = p["activation"](x) @ w + b
        return x[..., p["order"]]

    return network, tree


def equinox_mlp() -> tuple[Any, Any]:
    return lambda net, x: jax.vmap(net)(x), eqx.nn.MLP(3, 2, 4, 1, key=KEY)


def equinox_cell() -> tuple[Any, Any]:
    def run(cell: Any, xs: Any) -> Any:
        step = lambda h, x: (cell(x, h), h)  # noqa: E731
        return jax.lax.scan(step, jnp.zeros(4), xs)[0]

    return run, eqx.nn.GRUCell(3, 4, key=KEY)


TARGETS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "by hand": by_hand,
    "an Equinox MLP": equinox_mlp,
    "an Equinox cell": equinox_cell,
}


def replaced(tree: Any, tensors: Any) -> Any:
    """Return a tree with tensors, by their paths, in the place of its own."""

    def value(path: Any, leaf: Any) -> Any:
        return tensors.get(jax.tree_util.keystr(path, simple=True, separator="."), leaf)

    return jax.tree_util.tree_map_with_path(value, tree)


@pytest.mark.parametrize("case", TARGETS)
def test_a_batch_is_the_function_on_generated_trees(case: str, tmp_path: Path) -> None:
    apply, tree = TARGETS[case]()
    target = hl.Function(apply, tree)
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(5, 3), rngs=nnx.Rngs(0))
    net, params = hl.functional(hnet)
    xs = draws(9, 3, 6, 3)

    def loss(params: Any, ids: Any, x: Any) -> Any:
        y = net(params, x, condition=ids)
        return jnp.sum(jnp.sin(y + 1)), y

    def looped(params: Any, ids: Any, xs: Any) -> Any:
        made = [net.generate(params, i) for i in ids]
        ys = [apply(replaced(tree, p), x) for p, x in zip(made, xs, strict=True)]
        return jnp.sum(jnp.sin(jnp.stack(ys) + 1)), jnp.stack(ys)

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, IDS, xs)
    (_, wanted), expected = jax.jit(jax.value_and_grad(looped, has_aux=True))(params, IDS, xs)
    same(y, wanted, 1e-5)
    same(gradients, expected, 1e-5)

    alone = hnet.instantiate(3)
    same(
        alone(xs[0]) if case == "by hand" else apply(replaced(tree, hnet.generate(3)), xs[0]), y[0]
    )
    # The PyTorch module that stands for it has parameters only.
    check(hnet, IDS, 1e-6, None if case == "by hand" else tmp_path / "parity.safetensors")
    hl.save(hnet, tmp_path / "hnet.safetensors")
    again = hl.load(tmp_path / "hnet.safetensors", hl.Function(apply, tree))
    same(again.generate(IDS), hnet.generate(IDS))
    assert str(again) == str(hnet)
    for name in hnet.generate(0):
        assert name in str(hnet)


def test_roles_and_fans_by_name_and_shape() -> None:
    apply, tree = by_hand()
    spec = hl.target_spec(hl.Function(apply, tree))
    assert spec.name == "network"
    found = {t.name: (str(t.role), t.fan_in, t.fan_out) for t in spec}
    assert found == {
        "first.b": ("bias", 3, 4),
        "first.w": ("weight", 3, 4),
        "layer_norm.offset": ("norm shift", 1, 1),
        "layer_norm.scale": ("norm scale", 1, 1),
        "rest.0.0": ("weight", 4, 4),
        "rest.0.1": ("bias", 4, 4),
        "rest.1.0": ("weight", 4, 2),
        "rest.1.1": ("bias", 4, 2),
    }


@pytest.mark.parametrize(
    ("layer", "wanted"),
    [
        (
            eqx.nn.Linear(3, 5, key=KEY),
            {"weight": ("weight", 3, 5, 0, 1), "bias": ("bias", 3, 5, 0, None)},
        ),
        (
            eqx.nn.Conv2d(4, 6, 3, groups=2, key=KEY),
            {"weight": ("weight", 18, 27, 0, 1), "bias": ("bias", 18, 27, (0, 1, 2), None)},
        ),
        (eqx.nn.Embedding(7, 3, key=KEY), {"weight": ("embedding", 1, 3, 1, 0)}),
        (
            eqx.nn.LayerNorm(3),
            {"weight": ("norm scale", 1, 1, 0, None), "bias": ("norm shift", 1, 1, 0, None)},
        ),
        (
            eqx.nn.LSTMCell(3, 4, key=KEY),
            {
                "weight_ih": ("weight", 3, 16, 0, 1),
                "weight_hh": ("weight", 4, 16, 0, 1),
                "bias": ("bias", 3, 16, 0, None),
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_equinox_layers_are_known(layer: Any, wanted: Any) -> None:
    spec = hl.target_spec(layer)
    assert spec.name == type(layer).__name__
    found = {t.name: (str(t.role), t.fan_in, t.fan_out, t.out_axis, t.in_axis) for t in spec}
    assert found == wanted


def test_a_tree_that_can_be_called_is_a_target_itself() -> None:
    net = eqx.nn.Sequential([eqx.nn.Linear(3, 4, key=KEY), eqx.nn.Lambda(jnp.tanh)])
    hnet = hl.HyperNetwork(net, condition=hl.Embedding(5, 3), rngs=nnx.Rngs(0))
    x = draws(0, 3, 3)
    y = hnet(x, condition=IDS)
    alone = hnet.instantiate(0)
    assert isinstance(alone, eqx.nn.Sequential)
    same(alone(x[1]), y[1])
    partial = jax.tree_util.Partial(lambda p, x: jnp.tanh(p["w"] @ x + p["b"]))
    bound = jax.tree_util.Partial(partial.func, {"w": net.layers[0].weight, "b": jnp.ones(4)})
    again = hl.HyperNetwork(bound, condition=hl.Embedding(5, 3), rngs=nnx.Rngs(0))
    assert [t.name for t in again.plan.spec] == ["0.0.b", "0.0.w"]
    same(again.instantiate(2)(x[0]), again(x[0], condition=2))


def test_keys_are_inputs_and_arrays_of_ints_are_state() -> None:
    def noisy(p: Any, x: Any, key: Any) -> Any:
        return x @ p["w"] + p["shift"] + jax.random.normal(key, (2,))

    tree = {"w": draws(0, 3, 2), "shift": jnp.array([5, 7])}
    target = hl.Function(noisy, tree)
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(5, 3), rngs=nnx.Rngs(0))
    x, keys = draws(1, 3, 3), jax.random.split(KEY, 3)
    y = hnet(x, condition=IDS, key=keys)
    made = hnet.generate(IDS)
    wanted = [noisy({**tree, "w": made["w"][i]}, x[i], keys[i]) for i in range(3)]
    same(y, jnp.stack(wanted), 1e-5)
    state = {"shift": jnp.array([[0, 0], [1, 1], [2, 2]])}
    moved = hnet(x, condition=IDS, key=keys, state=state)
    same(moved, y - tree["shift"] + state["shift"], 1e-5)


def test_what_is_not_named_is_kept_and_forms_are_structured() -> None:
    apply, tree = equinox_mlp()
    hnet = hl.HyperNetwork(
        hl.Function(apply, tree),
        condition=hl.Vector(2),
        layout={"layers.*.weight": hl.Full()},
        form=hl.LoRA(1),
        rngs=nnx.Rngs(0),
    )
    assert hnet.plan.kept == ("layers.0.bias", "layers.1.bias")
    x, condition = draws(0, 3, 6, 3), draws(1, 3, 2)
    same(hnet(x, condition=condition), jnp.stack([apply(tree, row) for row in x]), 1e-5)
    report = hnet.explain(x, condition=condition)
    assert {use.operation for use in report.used} == {"linear"}


@pytest.mark.parametrize(
    ("target", "error", "text"),
    [
        (
            lambda: hl.Function(WRONG, {}),
            TypeError,
            "Function(apply): got 3; wanted a function apply",
        ),
        (
            lambda: hl.Function(eqx.nn.MLP, {}),
            TypeError,
            "Function(apply): got the class MLP; wanted a function apply",
        ),
        (
            lambda: hl.target_spec(hl.Function(jnp.add, {"n": jnp.arange(3)})),
            ValueError,
            "Function(params): got {'n': Array([0, 1, 2], dtype=int32)}; wanted a tree with at",
        ),
        (
            lambda: hl.target_spec(
                hl.Function(jnp.add, {"a.b": np.ones(3), "a": {"b": np.ones(3)}})
            ),
            ValueError,
            "target: got the names ['a.b'] twice; wanted each name once.",
        ),
        (
            lambda: hl.target_spec(eqx.nn.MLP),
            TypeError,
            "target: got the class MLP; wanted an nnx.Module, Linen(module, *inputs) or Function",
        ),
    ],
)
def test_refusals(target: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        target()
    assert str(caught.value).startswith(text)
