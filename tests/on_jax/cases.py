"""The table of cases on JAX: its targets, and hypernetworks of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import hyperloom.jax as hl
from tests._support.cases import (
    CONDITIONS,
    DIM,
    FORMS,
    LAYOUTS,
    NUM_IDS,
    ROWS,
    TRUNKS,
    Row,
    attention_target,
    cnn_target,
    mlp_target,
    tied_target,
)
from tests._support.on_jax import shaken

# ---- targets ------------------------------------------------------------------------------------


def mlp(dtype: Any = jnp.float32, seed: int = 0) -> nnx.Module:
    """Layers of equal and of unequal shape; smooth, so that finite differences hold."""
    rngs = nnx.Rngs(seed)
    sizes = [(4, 4), (4, 4), (4, 2)]
    layers = [biased(nnx.Linear(a, b, param_dtype=dtype, rngs=rngs), rngs) for a, b in sizes]
    return nnx.Sequential(layers[0], jnp.tanh, layers[1], jnp.tanh, layers[2])


def biased(layer: Any, rngs: nnx.Rngs) -> Any:
    """Give a layer random biases: Flax starts them at zero, where a lost one would not show."""
    layer.bias[...] = 0.3 * jax.random.normal(rngs.params(), layer.bias.shape, layer.bias.dtype)
    return layer


def cnn(dtype: Any = jnp.float32) -> nnx.Module:
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        nnx.Conv(2, 4, (3, 3), padding=1, param_dtype=dtype, rngs=rngs),
        nnx.GroupNorm(4, num_groups=2, param_dtype=dtype, rngs=rngs),
        jax.nn.silu,
        nnx.Conv(4, 4, (3, 3), padding=0, feature_group_count=2, param_dtype=dtype, rngs=rngs),
        lambda x: x.reshape(*x.shape[:-3], -1),
        nnx.Linear(16, 2, param_dtype=dtype, rngs=rngs),
    )


class Head(nnx.Module):
    """An output layer whose weight may be another layer's."""

    def __init__(self, weight: nnx.Param, dtype: Any) -> None:
        self.weight = weight
        self.bias = nnx.Param(jnp.ones(weight.shape[0], dtype))

    def __call__(self, x: Array) -> Array:
        return x @ self.weight[...].T + self.bias[...]


class Tied(nnx.Module):
    """Embedding and output layer share their weight, as in a language model."""

    def __init__(self, dtype: Any = jnp.float32) -> None:
        rngs = nnx.Rngs(0)
        self.embedding = nnx.Embed(6, 4, param_dtype=dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(4, param_dtype=dtype, rngs=rngs)
        self.head = Head(self.embedding.embedding, dtype)

    def __call__(self, x: Array) -> Array:
        return self.head(jnp.tanh(self.norm(self.embedding(x))))


class Attention(nnx.Module):
    """One pre-norm block with two heads, written out."""

    def __init__(self, dtype: Any = jnp.float32) -> None:
        rngs = nnx.Rngs(0)
        self.norm1 = nnx.LayerNorm(4, param_dtype=dtype, rngs=rngs)
        self.query_key_value = nnx.Linear(4, 12, use_bias=False, param_dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(4, 4, param_dtype=dtype, rngs=rngs)
        self.norm2 = nnx.LayerNorm(4, param_dtype=dtype, rngs=rngs)
        self.mlp = nnx.Sequential(
            nnx.Linear(4, 8, param_dtype=dtype, rngs=rngs),
            jax.nn.gelu,
            nnx.Linear(8, 4, param_dtype=dtype, rngs=rngs),
        )

    def __call__(self, x: Array) -> Array:
        heads = self.query_key_value(self.norm1(x)).reshape(*x.shape[:-1], 3, 2, 2)
        query, key, value = (jnp.moveaxis(heads[..., i, :, :], -3, -2) for i in range(3))
        mixed = jax.nn.softmax(query @ jnp.swapaxes(key, -1, -2) / 2**0.5) @ value
        x = x + self.out(jnp.moveaxis(mixed, -3, -2).reshape(x.shape))
        return x + self.mlp(self.norm2(x))


class LinenMLP(nn.Module):
    """The MLP of the table, in Linen."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        options: Any = {"param_dtype": self.dtype, "bias_init": nn.initializers.normal(0.3)}
        x = jnp.tanh(nn.Dense(4, **options)(x))
        x = jnp.tanh(nn.Dense(4, **options)(x))
        return nn.Dense(2, **options)(x)


def linen_mlp(dtype: Any = jnp.float32) -> hl.Linen:
    return hl.Linen(LinenMLP(dtype), jnp.ones((1, 4), dtype), rng=1)


def _floats(*shape: int) -> Callable[..., Array]:
    return lambda *lead, dtype: jnp.asarray(np.random.randn(*lead, *shape), dtype)


def _tokens(*lead: int, dtype: Any) -> Array:
    return jnp.asarray(np.random.randint(0, 6, (*lead, 5)))


TARGETS = {
    "mlp": mlp_target(mlp, _floats(3, 4), "layers.0", "layers.4", "kernel"),
    "cnn": cnn_target(cnn, _floats(3, 4, 4, 2), "layers.", "kernel"),
    "tied": tied_target(Tied, _tokens),
    "attention": attention_target(Attention, _floats(3, 4), "kernel"),
    "linen": mlp_target(linen_mlp, _floats(3, 4), "Dense_0", "Dense_2", "kernel"),
}

# ---- choices of the backend's own ---------------------------------------------------------------


class Encoder(nnx.Module):
    """A condition of the user's own: a small network over a raw vector."""

    def __init__(self, dtype: Any) -> None:
        rngs = nnx.Rngs(1)
        self.first = nnx.Linear(DIM, 5, param_dtype=dtype, rngs=rngs)
        self.last = nnx.Linear(5, 4, param_dtype=dtype, rngs=rngs)
        self.dim = 4

    def __call__(self, value: Array) -> Array:
        return self.last(jnp.tanh(self.first(value)))


class Trunk(nnx.Module):
    """A trunk of the user's own, for any width of its input; it says the width of its output."""

    dim = 5

    def __init__(self, width: int, dtype: Any) -> None:
        rngs = nnx.Rngs(2)
        self.first = nnx.Linear(width, 6, param_dtype=dtype, rngs=rngs)
        self.last = nnx.Linear(6, self.dim, param_dtype=dtype, rngs=rngs)

    def __call__(self, rows: Array) -> Array:
        return self.last(jnp.sin(self.first(rows)))


def condition_of(name: str, dtype: Any) -> Any:
    """Return the condition of a row."""
    return Encoder(dtype) if name == "module" else CONDITIONS[name]()


def trunk_of(name: str, condition: Any, layout: Any, dtype: Any) -> Any:
    """Return the trunk of a row."""
    if name == "module":
        width = 4 if isinstance(condition, nnx.Module) else condition.width
        return Trunk(width + getattr(layout, "embedding", 0), dtype)
    return TRUNKS[name]


@dataclass(frozen=True)
class Case(Row):
    """One row of the table."""

    def build(self, dtype: Any = jnp.float64, seed: int = 0) -> hl.HyperNetwork:
        """Make the hypernetwork; move every learned array away from its start.

        A change starts at zero, a bias at its constant: gradients that are lost would not show.
        """
        target = TARGETS[self.target]
        layout, condition = LAYOUTS[self.layout](target), condition_of(self.condition, dtype)
        make: Any = target.make
        hnet = hl.HyperNetwork(
            make(dtype),
            condition=condition,
            trunk=trunk_of(self.trunk, condition, layout, dtype),
            layout=layout,
            form=FORMS[self.form](target),
            rngs=nnx.Rngs(seed),
        )
        return shaken(hnet)

    def inputs(self, *lead: int, dtype: Any = jnp.float64) -> Array:
        """Return inputs for one call, with leading dimensions `lead`."""
        return TARGETS[self.target].inputs(*lead, dtype=dtype)

    def conditions(self, num: int, dtype: Any = jnp.float64) -> Any:
        """Return the raw value of `num` conditions; ids repeat."""
        ids = jnp.arange(num) * 2 % NUM_IDS
        vectors = jnp.asarray(np.random.randn(num, DIM), dtype)
        return self.raw(ids, vectors)


CASES = [Case(*astuple(row)) for row in ROWS]
# Linen in place of NNX in the rows of the MLP.
LINEN = [Case("linen", *astuple(row)[1:]) for row in ROWS if row.target == "mlp"]
