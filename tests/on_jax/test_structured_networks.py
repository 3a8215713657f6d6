"""Whole networks run from the factors of their generated weights: the same as one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom.jax as hl
from hyperloom.jax._rules import interpret
from tests._support.cases import STRUCTURED

B, E = 2, 4
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
DOUBLE = {"param_dtype": jnp.float64}


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


class Custom(nnx.Module):
    """A network with a call of its own, one layer of which is computed again backward."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(6, 8, rngs=rngs, **DOUBLE)
        self.norm = nnx.LayerNorm(8, rngs=rngs, **DOUBLE)
        self.second = nnx.Linear(8, 4, use_bias=False, rngs=rngs, **DOUBLE)

    def __call__(self, x: Any) -> Any:
        kernel = self.second.kernel[...]
        hidden = jnp.tanh(self.norm(self.first(x)))
        return jax.checkpoint(lambda h: h @ kernel)(hidden) + x[..., :4]


class Tied(nnx.Module):
    """An embedding whose matrix is also the output layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.table = nnx.Embed(11, 6, rngs=rngs, **DOUBLE)
        self.hidden = nnx.Linear(6, 6, rngs=rngs, **DOUBLE)

    def __call__(self, ids: Any) -> Any:
        return self.table.attend(jnp.tanh(self.hidden(self.table(ids))))


class Stack(nnx.Module):
    """Equal layers in one tensor, run by a scan over it; a branch in each."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(0.4 * jax.random.normal(rngs(), (3, 6, 6), jnp.float64))

    def __call__(self, x: Any) -> Any:
        def step(x: Any, kernel: Any) -> Any:
            grown = jax.lax.cond(x[0, 0] > 0, lambda x, k: x @ k, lambda x, k: -x @ k.T, x, kernel)
            return jnp.tanh(grown), x.sum()

        return jax.lax.scan(step, x, self.kernel[...])[0]


class Recurrent(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.rnn = nnx.RNN(nnx.LSTMCell(3, 4, rngs=rngs, **DOUBLE))

    def __call__(self, x: Any) -> Any:
        return self.rnn(x, initial_carry=(jnp.zeros((2, 4)), jnp.zeros((2, 4))))


def attend(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
    """Attention all in float64: Flax's own has its softmax in float32."""
    scores = jax.nn.softmax(jnp.einsum("...qhd,...khd->...hqk", query, key))
    return jnp.einsum("...hqk,...khd->...qhd", scores, value)


def attention(rngs: nnx.Rngs) -> nnx.Module:
    options: Any = {"dtype": jnp.float64, "attention_fn": attend, **DOUBLE}
    return nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs, **options)


def convolutions(rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Sequential(
        nnx.Conv(2, 4, (3, 3), strides=2, rngs=rngs, **DOUBLE),
        jnp.tanh,
        nnx.Conv(4, 4, (3, 3), feature_group_count=2, rngs=rngs, **DOUBLE),
        nnx.ConvTranspose(4, 3, (2, 2), strides=(2, 2), rngs=rngs, **DOUBLE),
    )


def linen_lstm(_: Any) -> Any:
    cell = nn.OptimizedLSTMCell(4, param_dtype=jnp.float64, dtype=jnp.float64)
    return hl.Linen(nn.RNN(cell), np.ones((2, 5, 3)))


def linen_cnn(_: Any) -> Any:
    class CNN(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.relu(nn.Conv(4, (3, 3), param_dtype=jnp.float64)(x))
            x = nn.GroupNorm(2, param_dtype=jnp.float64)(x)
            return nn.DenseGeneral((2, 3), axis=(-2, -1), param_dtype=jnp.float64)(x)

    return hl.Linen(CNN(), np.ones((2, 4, 4, 2)))


Target = tuple[Callable[[Any], Any], tuple[int, ...]]
TARGETS: dict[str, Target] = {
    "custom": (Custom, (5, 6)),
    "convolutions": (convolutions, (2, 6, 6, 2)),
    "tied": (Tied, (7,)),
    "attention": (attention, (2, 5, 8)),
    "stack": (Stack, (5, 6)),
    "lstm": (Recurrent, (2, 5, 3)),
    "linen lstm": (linen_lstm, (2, 5, 3)),
    "linen cnn": (linen_cnn, (2, 4, 4, 2)),
}
SHORT = [
    *(("custom", form, "outputs") for form in ("whole", "low rank")),
    *((t, "whole", "outputs") for t in ("convolutions", "tied", "attention", "stack")),
    ("linen lstm", "whole", "inputs"),
]
LONG = [
    *(("custom", form, "outputs") for form in STRUCTURED),
    *((target, "whole", "outputs") for target in TARGETS),
    *((target, "low rank", "dense") for target in ("convolutions", "attention", "lstm", "stack")),
    *((target, "whole", "inputs") for target in ("tied", "attention", "stack")),
    *((target, "whole", "dense") for target in ("convolutions", "linen lstm", "stack")),
]
CASES = [
    *(pytest.param(*case, id="-".join(case)) for case in SHORT),
    *(
        pytest.param(*case, id="-".join(case), marks=pytest.mark.slow)
        for case in dict.fromkeys(LONG)
        if case not in SHORT
    ),
]


def network(target: str, form: str) -> hl.HyperNetwork:
    made = TARGETS[target][0](nnx.Rngs(0))
    names = {t.name: STRUCTURED[form] for t in hl.target_spec(made) if len(t.shape) >= 2}
    hnet = hl.HyperNetwork(made, condition=hl.Vector(E), form=names, rngs=nnx.Rngs(1))
    rng = np.random.default_rng(3)
    state = nnx.state(hnet)  # off the start, where changes are zero

    def moved(v: Any) -> Any:
        return v + 0.3 * rng.standard_normal(v.shape) if v.dtype == jnp.float64 else v

    nnx.update(hnet, jax.tree.map(moved, state))
    return hnet


def inputs(target: str) -> tuple[Any, Any]:
    rng, shape = np.random.default_rng(5), TARGETS[target][1]
    x = rng.integers(0, 11, (B, *shape)) if target == "tied" else rng.standard_normal((B, *shape))
    return jnp.asarray(x), jnp.asarray(rng.standard_normal((B, E)))


@pytest.mark.parametrize(("target", "form", "way"), CASES)
def test_batch_equals_loop(target: str, form: str, way: str, take: Callable[[str], None]) -> None:
    hnet = network(target, form)
    graphdef, learned, rest = nnx.split(hnet, nnx.Param, ...)
    x, c = inputs(target)

    def together(learned: Any, c: Any) -> Any:
        return nnx.merge(graphdef, learned, rest, copy=True)(x, condition=c)

    def one_by_one(learned: Any, c: Any) -> Any:
        own = nnx.merge(graphdef, learned, rest, copy=True)
        return jnp.stack([own(x[i], condition=c[i]) for i in range(B)])

    def everything(run: Callable[..., Any]) -> Any:
        y, pull = jax.vjp(run, learned, c)
        return y, pull(jnp.linspace(-1, 1, y.size).reshape(y.shape))

    take(way)
    both = jax.jit(lambda: (everything(together), everything(one_by_one)), compiler_options=QUICK)
    got, wanted = both()
    assert got[0].dtype == jnp.float64
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10 * max(1.0, float(jnp.abs(b).max())))
    # What is said is what was done: no weight is formed unless the cost model asks for it.
    said = hnet.explain(x, condition=c)
    kernels = [use for use in said.used if "bias" not in use.tensor and use.layer is not None]
    if form in ("whole", "delta", "templates"):
        assert kernels
        assert {use.choice for use in kernels} <= {way}


def test_jacobians_and_directions(take: Callable[[str], None]) -> None:
    take("outputs")
    hnet = network("custom", "whole")
    x, c = inputs("custom")

    def together(c: Any) -> Any:
        return hnet(x, condition=c)

    def one_by_one(c: Any) -> Any:
        return jnp.stack([hnet(x[i], condition=c[i]) for i in range(B)])

    for run in (
        lambda f: jax.jacrev(f)(c),
        lambda f: jax.jvp(f, (c,), (jnp.cos(c),)),
        lambda f: jax.vmap(f)(jnp.stack([c, 2 * c])),
    ):
        got, wanted = jax.jit(lambda run=run: (run(together), run(one_by_one)))()
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), got, wanted
        )


class Slope(nnx.Module):
    """A network that differentiates itself, as those for differential equations do."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.net = nnx.Sequential(
            nnx.Linear(2, 8, rngs=rngs, **DOUBLE), jnp.tanh, nnx.Linear(8, 1, rngs=rngs, **DOUBLE)
        )

    def __call__(self, x: Any) -> Any:
        return jax.vmap(jax.grad(lambda x: self.net(x)[0]))(x)


def test_a_target_that_differentiates_itself(take: Callable[[str], None]) -> None:
    take("outputs")
    hnet = hl.HyperNetwork(Slope(nnx.Rngs(0)), condition=hl.Vector(E), rngs=nnx.Rngs(1))
    x, c = jnp.linspace(-1, 1, B * 5 * 2).reshape(B, 5, 2), jnp.asarray(inputs("custom")[1])
    got = hnet(x, condition=c)
    for i in range(B):
        np.testing.assert_allclose(got[i], hnet.instantiate(c[i])(x[i]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("form", "dtypes"),
    [
        ("whole", ("float32", "bfloat16")),
        ("scale", ("float32", "bfloat16")),
        ("low rank", ("bfloat16", "bfloat16")),
        ("whole", ("bfloat16", "float32")),
    ],
)
def test_dtypes_are_those_of_plain_modules(
    form: str, dtypes: tuple[str, str], take: Callable[[str], None]
) -> None:
    take("outputs")
    param_dtype, dtype = map(jnp.dtype, dtypes)
    target = nnx.Linear(6, 8, param_dtype=param_dtype, dtype=dtype, rngs=nnx.Rngs(0))
    names = {"kernel": STRUCTURED[form]}
    hnet = hl.HyperNetwork(target, condition=hl.Vector(E), form=names, rngs=nnx.Rngs(1))
    x = jnp.linspace(-1, 1, B * 5 * 6, dtype=jnp.float32).reshape(B, 5, 6)
    c = jnp.linspace(-1, 1, B * E, dtype=jnp.float32).reshape(B, E)
    got = hnet(x, condition=c)
    wanted = jnp.stack([hnet.instantiate(c[i])(x[i]) for i in range(B)])
    assert got.dtype == wanted.dtype == dtype
    error = jnp.abs(got.astype("float32") - wanted.astype("float32")).max()
    assert error < 0.03 * jnp.abs(wanted.astype("float32")).max()


def numbers_in(closed: Any) -> Iterator[tuple[str, int]]:
    """Yield the primitive and the size of every result in a program."""
    for equation in closed.eqns:
        for inner in equation.params.values():
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield from numbers_in(getattr(inner, "jaxpr", inner))
        for result in equation.outvars:
            yield equation.primitive.name, int(np.prod(result.aval.shape))


@pytest.mark.parametrize("way", ["inputs", "outputs"])
def test_nothing_of_the_size_of_all_weights_is_formed(
    way: str, take: Callable[[str], None]
) -> None:
    take(way)
    many, size = 64, 32
    target = nnx.Linear(size, size, use_bias=False, rngs=nnx.Rngs(0))
    hnet = hl.HyperNetwork(target, condition=hl.Vector(E), rngs=nnx.Rngs(1))
    c, x = jnp.ones((many, E), "float32"), jnp.ones((many, 1, size), "float32")

    def loss(c: Any, x: Any) -> Any:
        return hnet(x, condition=c).sum()

    program = jax.make_jaxpr(jax.value_and_grad(loss, argnums=(0, 1)))(c, x)
    largest = max(numbers_in(program.jaxpr), key=lambda entry: entry[1])
    # Coefficients times inputs (or outputs), and the templates once; not B matrices.
    assert largest[1] <= max(many * E * size, size * size * E), largest
    assert largest[1] < many * size * size


def test_explain_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    target = nnx.Sequential(nnx.Linear(64, 256, rngs=nnx.Rngs(0)), nnx.relu)
    hnet = hl.HyperNetwork(target, condition=hl.Vector(16), rngs=nnx.Rngs(1))

    def ones(*shape: int) -> Any:
        return jnp.ones(shape, jnp.float32)

    few = hnet.explain(ones(512, 1, 64), condition=ones(512, 16))
    many = hnet.explain(ones(8, 512, 64), condition=ones(8, 16))
    assert few["layers.0.kernel"].choice in ("inputs", "outputs")
    layer = few["layers.0.kernel"].layer
    assert layer is not None
    assert layer.rows == 1
    assert many["layers.0.kernel"].choice == "dense"
    assert "x faster than the next" in str(few)
    single = hnet.explain(ones(1, 64), condition=ones(16))
    assert single.strategy == "single"


def test_without_weight_objects_the_function_is_called_as_it_is() -> None:
    seen: list[Any] = []

    def pure(tensors: Any, x: Any) -> Any:
        seen.append(tensors["w"])
        return tensors["w"] + x

    w = jnp.ones(3)
    np.testing.assert_array_equal(interpret.call(pure, {"w": w}, 1.0), w + 1)
    assert seen[0] is w


@pytest.mark.parametrize("rows", [1, 2])
def test_one_row_each_and_dense_weights_take_one_product_of_the_head(rows: int) -> None:
    rngs = nnx.Rngs(0)
    layers = nnx.Linear(64, 100, rngs=rngs), jax.nn.relu, nnx.Linear(100, 10, rngs=rngs)
    hnet = hl.HyperNetwork(nnx.Sequential(*layers), condition=hl.Vector(100), rngs=rngs)
    x, c = jnp.ones((512, rows, 64)), jnp.ones((512, 100))
    ways = {use.choice for use in hnet.explain(x, condition=c).used}
    assert ways == {"dense"}
    traced = jax.make_jaxpr(lambda x, c: hnet(x, condition=c))(x, c)
    products = str(traced).count("dot_general")
    # The head, and two layers; or a product for each of the four tensors, and two layers.
    assert products == (3 if rows == 1 else 6)
