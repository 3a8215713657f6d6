"""A convolution of its own for each condition, in JAX."""

from __future__ import annotations

from typing import Any

from benchmarks import _jax_problem
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, ours

KEY = "jax 16 to 16 channels, 28x28, B 64"
WIDTH = 16


def _contestants(setting: Setting) -> list[Contestant]:
    num, channels, side = (3, 4, 6) if setting.tiny else (64, 16, 28)

    def target(rngs: Any) -> Any:
        from flax import nnx

        return nnx.Conv(channels, channels, (3, 3), rngs=rngs)

    shape = (1, side, side, channels)
    p = _jax_problem.Problem(target, WIDTH, num, shape, shape)
    made = [_jax_problem.hyperloom(p), _jax_problem.by_vmap(p)]
    return [*made, _by_patches(p), _jax_problem.loop(p)]


def _by_patches(p: Any) -> Contestant:
    """All patches of the inputs, and one product with them for each condition."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    def run(heads: Any, c: Any, x: Any) -> Any:
        made = p.formed(heads, c)
        layout = ("NHWC", "HWIO", "NHWC")
        flat = x.reshape(-1, *x.shape[2:])
        patches = lax.conv_general_dilated_patches(
            flat, (3, 3), (1, 1), "SAME", dimension_numbers=layout
        )
        patches = patches.reshape(*x.shape[:-1], -1)  # channels before places
        kernel = jnp.moveaxis(made["kernel"], 3, 1).reshape(len(c), -1, x.shape[-1])
        return jnp.einsum("bnhwk,bko->bnhwo", patches, kernel) + made["bias"][:, None, None, None]

    return p.contestant("hand patches", jax.jit(run), "reference")


def workloads(setting: Setting) -> list[Workload]:
    return [Workload(KEY, lambda: _contestants(setting), seconds=10)]


def judge(results: Results) -> list[Claim]:
    times = results[KEY]
    faster = times["vmap"].median / ours(times).median
    return [Claim("JAX, convolution: times faster than vmap", faster, least=20)]


CASE = Case(
    "jax_conv",
    "JAX: convolution",
    [
        "`nnx.Conv(16, 16, (3, 3))` on one 28x28 image for each of 64 conditions; kernel and bias "
        "are linear in a condition of width 16. vmap: plain `vmap` of the layer, which XLA runs "
        "as one convolution with 64 groups. hand patches: patches of the inputs times a matrix "
        "for each condition; for reference. loop: one compiled call for each condition.",
    ],
    workloads,
    judge,
)
