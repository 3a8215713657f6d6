"""Layers evaluated from the factors of generated weights: the same as with dense weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hyperloom.jax._rules import interpret
from hyperloom.jax._weights.weights import (
    StructuredWeight,
    combined,
    factored,
    formed,
    scaled,
    shifted,
)

B, N, R = 3, 5, 4
# Compiling takes nearly all of the time here.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
WAYS = ("inputs", "outputs", "dense")
Pure = Callable[[dict[str, Any], Any], Any]


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def draw(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def weight(form: str, shape: tuple[int, ...]) -> StructuredWeight:
    base, dtype, ones = draw(1, *shape), "float64", [1] * (len(shape) - 1)
    out = draw(2, B, *ones, shape[-1])
    match form:
        case "sum":
            return combined("w", shape, dtype, draw(3, B, R), draw(4, *shape, R), base)
        case "templates":
            return combined("w", shape, dtype, draw(3, B, R), draw(4, *shape, R))
        case "low rank":
            split = len(shape) - 1
            u, v = draw(3, B, math.prod(shape[:split]), 2), draw(4, B, 2, shape[-1])
            return factored("w", shape, dtype, u, v, split, base)
        case "scale":
            return scaled("w", base, dtype, [out])
        case "rank one":
            return scaled("w", base, dtype, [out, draw(3, B, *ones[1:], shape[-2], 1)])
        case "shift":
            return shifted("w", base, dtype, out)
        case _:
            return formed("w", draw(1, B, *shape))


def conv(**options: Any) -> Pure:
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    options.setdefault("dimension_numbers", ("NHWC", "HWIO", "NHWC"))
    return lambda p, x: lax.conv_general_dilated(x, p["w"], **options)


# What the module does with the weight, the weight's shape, the inputs.
USES: dict[str, tuple[Pure, tuple[int, ...], Any]] = {
    "linear": (lambda p, x: jnp.tanh(x @ p["w"]), (6, 7), draw(9, B, N, 6)),
    "one row": (lambda p, x: x @ p["w"], (6, 7), draw(9, B, 6)),
    "transposed": (lambda p, x: x @ (p["w"].T * 2), (7, 6), draw(9, B, N, 6)),
    "on the left": (lambda p, x: p["w"] @ x, (7, 6), draw(9, B, 6, N)),
    "twice": (lambda p, x: x @ p["w"] @ p["w"].T @ jnp.sin(p["w"]), (6, 7), draw(9, B, N, 6)),
    "heads": (lambda p, x: jnp.einsum("nt,thd->hnd", x, p["w"]), (6, 2, 3), draw(9, B, N, 6)),
    "from heads": (
        lambda p, x: jnp.einsum("nhd,hdt->nt", x, p["w"]),
        (2, 3, 6),
        draw(9, B, N, 2, 3),
    ),
    "stacked": (
        lambda p, x: jnp.einsum("gni,gio->gno", x, p["w"]),
        (2, 6, 3),
        draw(9, B, 2, N, 6),
    ),
    "embedding": (
        lambda p, x: jnp.take(p["w"], x, axis=0),
        (13, 6),
        np.arange(B * 4).reshape(B, 2, 2),
    ),
    "sliced": (
        lambda p, x: x @ p["w"].reshape(6, 8)[:, :5] + (-p["w"][1:4, 0, :2]).sum() / 3,
        (6, 2, 4),
        draw(9, B, N, 6),
    ),
    "split": (
        lambda p, x: x @ jnp.split(p["w"][None], 2, axis=2)[1][0],
        (6, 8),
        draw(9, B, N, 6),
    ),
    "conv": (
        conv(window_strides=(2, 1), padding=((1, 1), (0, 2)), rhs_dilation=(1, 2)),
        (3, 2, 4, 6),
        draw(9, B, 2, 8, 8, 4),
    ),
    "grouped conv": (conv(feature_group_count=2), (3, 3, 2, 6), draw(9, B, 2, 6, 6, 4)),
    "transposed conv": (
        lambda p, x: lax.conv_transpose(x, p["w"], (2, 2), "SAME"),
        (3, 3, 4, 5),
        draw(9, B, 2, 5, 5, 4),
    ),
    "1d conv, channels first": (
        conv(window_strides=(2,), padding="VALID", dimension_numbers=("NCH", "HIO", "NCH")),
        (3, 4, 5),
        draw(9, B, 2, 4, 9),
    ),
    "3d conv": (
        conv(
            window_strides=(1, 1, 1),
            padding=((1, 0), (0, 0), (-1, 1)),
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        ),
        (2, 2, 2, 2, 3),
        draw(9, B, 1, 4, 4, 4, 2),
    ),
}
FORMS = ("sum", "templates", "low rank", "scale", "rank one", "shift", "formed")


def _quick(use: str, form: str, way: str) -> bool:
    """Whether a case is in the short suite: every use and every form at least once."""
    if (form, way) == ("sum", "outputs") or use in ("linear", "conv"):
        return True
    return form == "low rank" and use in ("from heads", "embedding")


CASES = [
    pytest.param(*case, id="-".join(case), marks=() if _quick(*case) else pytest.mark.slow)
    for use in USES
    for form in FORMS
    for way in (WAYS if form == "sum" else ("outputs",))
    if form != "templates" or use in ("linear", "conv")
    for case in [(use, form, way)]
]


def by_parts(pure: Pure, w: StructuredWeight, x: Any) -> Any:
    def one(w: Any, x: Any) -> Any:
        return interpret.call(pure, {"w": w}, x, num_conditions=B)

    return jax.vmap(one, in_axes=(w.in_axes, 0))(w, x)


def dense(pure: Pure, w: StructuredWeight, x: Any) -> Any:
    return jax.vmap(lambda w, x: pure({"w": w.dense()}, x), in_axes=(w.in_axes, 0))(w, x)


def with_gradients(run: Callable[..., Any], w: Any, x: Any) -> Any:
    def loss(w: Any, x: Any) -> Any:
        y = run(w, x)
        return (y * jnp.linspace(-1, 1, y.size).reshape(y.shape)).sum(), y

    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return jax.grad(loss, argnums=(0, 1) if floating else 0, has_aux=True)(w, x)


def assert_equal(got: Any, wanted: Any, tolerance: float = 1e-10) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        scale = float(jnp.abs(b).max()) if b.size else 1.0
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(scale, 1e-3))


@pytest.mark.parametrize(("use", "form", "way"), CASES)
def test_the_same_as_dense(use: str, form: str, way: str, take: Any) -> None:
    take(way)
    pure, shape, x = USES[use]
    w, x = jax.tree.map(jnp.asarray, (weight(form, shape), x))

    def both(w: Any, x: Any) -> Any:
        runs = (lambda w, x: by_parts(pure, w, x)), (lambda w, x: dense(pure, w, x))
        return tuple(with_gradients(run, w, x) for run in runs)

    got, wanted = jax.jit(both, compiler_options=QUICK)(w, x)
    assert_equal(got, wanted)
