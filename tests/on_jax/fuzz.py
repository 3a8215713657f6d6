"""One random case: a target, choices, a call; the batch against the loop, and against NumPy."""

from __future__ import annotations

import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import hyperloom.jax as hl
from hyperloom._core.reference import executor
from hyperloom.jax._tools.checkpoint import neutral_tensors
from tests._support.compare import close
from tests.fuzz import CONDITIONS, DIM, FORMS, NUM_IDS, TRUNKS, Drawn, draw, layout_of, program

TRANSFORMS = ("gradients", "plain", "jit", "vmap")


class Graph(nnx.Module):
    """A target with a forward of its own: steps drawn at random, some with a residual."""

    def __init__(self, pick: random.Random, rngs: nnx.Rngs) -> None:
        self.kind = pick.choice(("vectors", "vectors", "images", "tokens"))
        steps: list[tuple[str, Any]] = []
        options: dict[str, Any] = {"rngs": rngs, "param_dtype": jnp.float64}
        width = {"vectors": 3, "images": 2, "tokens": 4}[self.kind]
        if self.kind == "tokens":
            steps.append(("embedding", nnx.Embed(6, width, **options)))
            if pick.random() < 0.5:
                part = nnx.MultiHeadAttention(2, width, decode=False, **options)
                steps.append(("attention", part))
        for _ in range(pick.randint(1, 2)):
            if self.kind == "images":
                new = pick.choice((2, 4))
                steps.append(("conv", nnx.Conv(width, new, (3, 3), pick.choice((1, 2)), **options)))
                width = new
                continue
            name = pick.choice(("linear", "norm", "residual", "split"))
            if name == "norm":
                steps.append((name, nnx.LayerNorm(width, **options)))
                continue
            new = {"linear": pick.choice((2, 4, 5)), "residual": width, "split": 4}[name]
            steps.append((name, nnx.Linear(width, new, **options)))
            width = 2 if name == "split" else new
        steps.append(
            ("mean" if self.kind != "vectors" else "linear", nnx.Linear(width, 2, **options))
        )
        self.names = tuple(name for name, _ in steps)
        self.parts = nnx.List([part for _, part in steps])

    def __call__(self, x: Array, shift: Array | None = None) -> Array:
        for name, part in zip(self.names, self.parts, strict=True):
            layer: Any = part
            if name == "residual":
                x = x + jnp.tanh(layer(x))
            elif name == "split":
                left, right = jnp.split(layer(x), 2, -1)
                x = left * jax.nn.sigmoid(right)
            elif name == "conv":
                x = jnp.tanh(layer(x))
            elif name == "mean":
                x = layer(x.mean((-3, -2) if self.kind == "images" else -2))
            else:
                x = layer(x)
        return x if shift is None else x + shift

    def inputs(self, draws: np.random.Generator, *lead: int) -> Array:
        """Return inputs of one call, with leading dimensions."""
        if self.kind == "tokens":
            return jnp.asarray(draws.integers(6, size=(*lead, 2, 3)))
        shape = (4, 3) if self.kind == "vectors" else (2, 6, 6, 2)
        return jnp.asarray(draws.standard_normal((*lead, *shape)))


class Case:
    """A case, made again from its seed. To be used in float64.

    Args:
        seed: The seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed, pick = seed, random.Random(seed)
        self.target = Graph(pick, nnx.Rngs(seed))
        self.drawn: Drawn = draw(pick, TRANSFORMS)

    def __repr__(self) -> str:
        return f"seed {self.seed}: {self.target.kind}: {self.target.names}; {self.drawn}"

    def hypernetwork(self, draws: np.random.Generator) -> hl.HyperNetwork:
        """Make the hypernetwork; every learned array is moved from its start."""
        drawn, spec = self.drawn, hl.target_spec(self.target)
        matrices = [t.name for t in spec if len(t.shape) > 1 and t.role != "bias"]
        rest = [t.name for t in spec if t.name not in matrices]
        layout: dict[str, Any] = dict.fromkeys(matrices, layout_of(drawn.layouts[0]))
        if drawn.layouts[1] is not None:
            layout |= dict.fromkeys(rest, layout_of(drawn.layouts[1]))
        form: dict[str, Any] = dict.fromkeys(matrices, FORMS[drawn.form])
        hnet = hl.HyperNetwork(
            self.target,
            condition=CONDITIONS[drawn.condition],
            trunk=TRUNKS[drawn.trunk],
            layout=layout,
            form=form,
            execution=drawn.execution,
            rngs=nnx.Rngs(self.seed),
        )
        state = nnx.state(hnet, nnx.Param)
        moved = jax.tree.map(lambda v: v + 0.2 * draws.standard_normal(v.shape), state)
        nnx.update(hnet, moved)
        return hnet

    def check(self) -> None:
        """Compare the batch with the loop, gradients and all; raise `AssertionError` if not."""
        try:
            self._check()
        except Exception as error:
            text = f"{self}\n\n{program(self.seed, 'on_jax')}\n\n{type(error).__name__}: {error}"
            raise AssertionError(text) from error

    def _check(self) -> None:
        drawn, draws = self.drawn, np.random.default_rng(self.seed)
        hnet = self.hypernetwork(draws)
        x = self.target.inputs(draws, *(drawn.batch if drawn.dims is not None else ()))
        ids = jnp.asarray(draws.integers(2 if drawn.repeat else NUM_IDS, size=drawn.batch))
        vectors = jnp.asarray(draws.standard_normal((*drawn.batch, DIM)))
        conditions = {"ids": ids, "concat": (ids, vectors)}.get(drawn.condition, vectors)
        given = jnp.moveaxis(x, 0, 1) if drawn.dims == 1 else x
        shift = jnp.asarray(draws.standard_normal((*drawn.batch, 2)))
        options: dict[str, Any] = {"shift": shift} if drawn.shift == 0 and drawn.dims == 0 else {}
        net, params = hl.functional(hnet)

        def batch(params: Any, given: Array) -> Array:
            return net(params, given, condition=conditions, in_axes=drawn.dims, **options)

        def loop(params: Any) -> Array:
            outputs = []
            for index in np.ndindex(*drawn.batch):
                one = _map(conditions, index)
                tensors = net.generate(params, one)
                own = x[index] if drawn.dims is not None else x
                more: dict[str, Any] = {name: value[index] for name, value in options.items()}
                outputs.append(hnet.run(tensors, own, **more))
            return jnp.stack(outputs).reshape(*drawn.batch, *outputs[0].shape)

        wanted = loop(params)
        if drawn.transform == "jit":
            made = jax.jit(batch)(params, given)
        elif drawn.transform == "vmap":
            made = jax.vmap(batch, (None, 0))(params, jnp.stack([given, given]))[1]
        else:
            made = batch(params, given)
        close(made, wanted, 1e-9, scaled=True)
        if drawn.transform == "gradients":
            probe = jnp.asarray(draws.standard_normal(wanted.shape))
            mine = jax.grad(lambda p: (batch(p, given) * probe).sum())(params)
            right = jax.grad(lambda p: (loop(p) * probe).sum())(params)
            for name in params:
                close({name: mine[name]}, {name: right[name]}, 1e-8, scaled=True)
        arrays, tensors = neutral_tensors(hnet, with_base=True), hnet.generate(conditions)
        index = (0,) * len(drawn.batch)
        one = _map(conditions, index)
        raw = tuple(map(_value, one)) if isinstance(one, tuple) else _value(one)
        for name, value in executor.generate(hnet.plan, arrays, raw).items():
            found = np.asarray(tensors[name][index])  # so that the dtype is compared
            close({name: found}, {name: np.asarray(value)}, 1e-11, scaled=True)


def _map(value: Any, index: tuple[int, ...]) -> Any:
    return tuple(v[index] for v in value) if isinstance(value, tuple) else value[index]


def _value(value: Array) -> Any:
    return np.asarray(value) if jnp.issubdtype(value.dtype, jnp.floating) else int(value)
