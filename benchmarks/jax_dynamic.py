"""A network of its own for every input, or for a few, in JAX."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from benchmarks import _jax, _jax_problem
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, ours
from benchmarks.dynamic import MANY, ONE, SIZES, WIDTH


def _contestants(
    sizes: tuple[int, ...], conditions: int, rows: int, slow: bool
) -> list[Contestant]:
    def target(rngs: Any) -> Any:
        from flax import nnx

        parts: list[Any] = []
        for a, b in pairwise(sizes):
            parts += [nnx.Linear(a, b, rngs=rngs), nnx.relu]
        return nnx.Sequential(*parts[:-1])

    p = _jax_problem.Problem(target, WIDTH, conditions, (rows, sizes[0]), (rows, sizes[-1]))
    made = [_jax_problem.hyperloom(p), _jax_problem.by_vmap(p), _by_einsum(p, sizes)]
    if not slow:
        return made
    made.append(_jax_problem.loop(p))
    return [*made, _jax_problem.hyper_nn(p, _linen(sizes))] if _jax.HAS_HYPER_NN else made


def _linen(sizes: tuple[int, ...]) -> Any:
    import flax.linen as nn

    class Target(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            for i, size in enumerate(sizes[1:]):
                x = nn.Dense(size)(x if i == 0 else nn.relu(x))
            return x

    return Target()


def _by_einsum(p: Any, sizes: tuple[int, ...]) -> Contestant:
    """One einsum of condition, templates and inputs for each layer; XLA chooses the order."""
    import jax
    import jax.numpy as jnp

    def run(heads: Any, c: Any, x: Any) -> Any:
        for i, (a, b) in enumerate(pairwise(sizes)):
            (bias, bias_0), (kernel, kernel_0) = (
                heads[f"layers.{2 * i}.{leaf}"] for leaf in ("bias", "kernel")
            )
            templates = kernel.reshape(a, b, -1)
            x = x if i == 0 else jax.nn.relu(x)
            made = jnp.einsum("br,ior,bni->bno", c, templates, x, optimize="optimal")
            x = made + x @ kernel_0.reshape(a, b) + (c @ bias.T + bias_0)[:, None]
        return x

    return p.contestant("hand einsum", run, "reference")


def workloads(setting: Setting) -> list[Workload]:
    sizes = (5, 7, 6, 3) if setting.tiny else SIZES

    def make(conditions: int, rows: int) -> list[Contestant]:
        if setting.tiny:
            conditions, rows = min(conditions, 5), min(rows, 4)
        # A small run shows with one input each that the slow ones do the same.
        return _contestants(sizes, conditions, rows, slow=rows == 1 or not setting.tiny)

    return [
        Workload(f"jax {ONE}", lambda: make(512, 1), seconds=15),
        Workload(f"jax {MANY}", lambda: make(32, 256), seconds=12),
    ]


def judge(results: Results) -> list[Claim]:
    one, many = results[f"jax {ONE}"], results[f"jax {MANY}"]
    faster = one["vmap"].median / ours(one).median
    share = ours(many).median / many["vmap"].median
    return [
        Claim(f"JAX, dynamic MLP, {ONE}: times faster than vmap", faster, least=5),
        Claim(f"JAX, dynamic MLP, {MANY}: time over vmap", share, most=1.1),
    ]


CASE = Case(
    "jax_dynamic",
    "JAX: dynamic MLP",
    [
        "As the dynamic MLP above: target 64-256-256-10 in Flax NNX, all of it a linear function "
        "of a condition of width 16. A step is one compiled function.",
        "vmap: a head for each tensor, `vmap` of the target. hand einsum: each layer as one "
        "einsum of condition, templates and inputs, in the order that costs the fewest "
        "operations; shown for reference. loop: one compiled call for each condition. hyper-nn: a "
        "generator in its base class for JAX, under `vmap` from outside; `from_target` and its "
        "ready-made generators do not run any more, they call `jax.tree_map`, which JAX has "
        "removed.",
    ],
    workloads,
    judge,
)
