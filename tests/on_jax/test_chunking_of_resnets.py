"""Structured chunking in JAX, by shape, by layer, by greatest common divisor; shared templates.

For residual networks and wide ones, and for any module: the layout looks at shapes, not classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import hyperloom.jax as hl
from hyperloom._core.reference import executor
from hyperloom.jax._tools.checkpoint import neutral_tensors
from tests._support.on_jax import over

DOUBLE: Any = {"param_dtype": jnp.float64}
Widths = tuple[int, ...]
SMALL: Widths = (2, 4)
# A ResNet and a wide one; all that is different is how much there is to compile.
SIZES = [SMALL, pytest.param((4, 8, 16), marks=pytest.mark.slow)]
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


class Block(nnx.Module):
    def __init__(self, into: int, out: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(into, out, (3, 3), rngs=rngs, **DOUBLE)
        self.second = nnx.Conv(out, out, (3, 3), rngs=rngs, **DOUBLE)
        self.short = nnx.Linear(into, out, rngs=rngs, **DOUBLE) if into != out else nnx.data(None)

    def __call__(self, x: Array) -> Array:
        short = x if self.short is None else self.short(x)
        return short + self.second(jnp.tanh(self.first(jnp.tanh(x))))


class ResNet(nnx.Module):
    """Two blocks for each width."""

    def __init__(self, widths: Widths) -> None:
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(1, widths[0], (3, 3), rngs=rngs, **DOUBLE)
        blocks, into = [], widths[0]
        for width in widths:
            blocks += [Block(into, width, rngs), Block(width, width, rngs)]
            into = width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(into, 3, rngs=rngs, **DOUBLE)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((-3, -2)))


def over_resnet(widths: Widths = SMALL, **choices: Any) -> hl.HyperNetwork:
    choices = {"condition": hl.Embedding(4, 3), "trunk": hl.MLP(6), **choices}
    return over(ResNet(widths), seed=1, **choices)


def heads(hnet: hl.HyperNetwork) -> dict[tuple[int, int], set[str]]:
    """Return for each head its slots and their size, and the tensors that it makes."""
    found: dict[tuple[int, int], set[str]] = {}
    for entry in hnet.plan.entries:
        head = hnet.plan.heads[entry.pieces[0].head]
        found.setdefault((head.num_slots, head.slot_size), set()).add(entry.tensor)
    return found


def compare(hnet: hl.HyperNetwork) -> None:
    """Check generated tensors against the oracle, and a batch of networks against a loop."""
    ids = jnp.array([2, 0])
    made = jax.jit(hnet.generate, compiler_options=QUICK)(ids)
    tensors = {
        name: np.asarray(v, np.float64) for name, v in neutral_tensors(hnet, with_base=True).items()
    }
    for i in range(2):
        for name, value in executor.generate(hnet.plan, tensors, int(ids[i])).items():
            np.testing.assert_allclose(made[name][i], value, atol=1e-12)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 5, 5, 1)))
    y = jax.jit(lambda x: hnet(x, condition=ids), compiler_options=QUICK)(x)
    one = jax.jit(hnet.run, compiler_options=QUICK)
    for i in range(2):
        wanted = one({name: value[i] for name, value in made.items()}, x[i])
        np.testing.assert_allclose(y[i], wanted, atol=1e-10)


LAYERS = [f"blocks.{i}.{half}" for i in range(6) for half in ("first", "second")]


@pytest.mark.parametrize("widths", SIZES, ids=str)
@pytest.mark.parametrize("unit", ["tensors", "layers"])
def test_equal_shapes_share_a_generator(unit: str, widths: Widths) -> None:
    choice = hl.Tensors() if unit == "tensors" else hl.Layers()
    hnet = over_resnet(widths, layout=hl.Grouped(embedding=2, unit=choice))
    found = heads(hnet)
    for stage, width in enumerate(widths):
        # Three convolutions of a stage have one shape, its first has another (but in stage 0).
        equal = LAYERS[4 * stage + (stage > 0) : 4 * stage + 4]
        size = 9 * width * width + (width if unit == "layers" else 0)
        names = {f"{layer}.kernel" for layer in equal}
        names |= {f"{layer}.bias" for layer in equal} if unit == "layers" else set()
        assert found[len(equal), size] == names
    compare(hnet)


@pytest.mark.parametrize("widths", SIZES, ids=str)
def test_unequal_widths_share_the_greatest_common_divisor(widths: Widths) -> None:
    least = widths[0]
    tiles = hl.Grouped(embedding=2, unit=hl.Tiles(smallest=9 * least**2))
    hnet = over_resnet(
        widths, layout={"blocks.*.first.kernel": tiles, "blocks.*.second.kernel": tiles}
    )
    (head,) = hnet.plan.heads
    assert head.slot_size == 9 * least * least
    # Blocks of least x least channels: of four convolutions of a stage, the first is half as wide.
    blocks = [(width // least) ** 2 for width in widths]
    assert head.num_slots == sum(4 * n for n in blocks) - sum(n // 2 for n in blocks[1:])
    for entry in hnet.plan.entries:
        assert entry.pieces[0].tile == (3, 3, least, least)
    compare(hnet)


def test_templates_are_shared_by_layers_of_equal_shape() -> None:
    kernels = {"blocks.*.second.kernel": hl.Full(), "blocks.[13].first.kernel": hl.Full()}
    hnet = over_resnet(layout=kernels, form=dict.fromkeys(kernels, hl.Templates(2)))
    assert [bank.shape for bank in hnet.plan.banks] == [(2, 3, 3, width, width) for width in SMALL]
    compare(hnet)
    made = jax.jit(hnet.generate)(jnp.arange(4))
    for bank, width in zip(hnet.banks, SMALL, strict=True):
        rows = np.asarray(bank[...]).reshape(2, -1)
        own = [v for v in made.values() if v.shape[-1] == width]
        assert len(own) == 3
        # Every generated kernel is a combination of the bank's two templates.
        values = np.concatenate([np.asarray(v).reshape(4, -1) for v in own])
        assert np.linalg.matrix_rank(np.concatenate([rows, values]), tol=1e-9) == 2
    net, params = hl.functional(hnet)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 5, 1)))

    def loss(params: dict[str, Array]) -> Array:
        return jnp.sum(net(params, x, condition=1) ** 2)

    slope = jax.jit(jax.grad(loss), compiler_options=QUICK)(params)
    assert all(np.any(np.asarray(slope[f"banks.{i}"])) for i in range(2))
