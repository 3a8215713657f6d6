"""The rules of initialisation, against the papers' formulas in numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

import hyperloom as hl
from hyperloom import Init, Role, TensorSpec
from hyperloom._core.records import Orthogonals
from tests.core.specs import conv, embedding, linear, norm, starts_of, target

RELU, NO_RELU = True, False
WITH_BIAS, NO_BIAS = True, False


def var(init: Init, tensor: TensorSpec, bias_generated: bool = WITH_BIAS) -> float:
    start = init.start(tensor, bias_generated)
    assert start.mean == 0.0
    assert not start.native
    assert not start.exact
    return start.std**2


# d_j = fan-in 10, d_i = fan-out 40. 2^R is 2 with a ReLU, 2^B is 2 where the bias is generated too.
WEIGHT, BIAS = linear("fc", 10, 40)


@pytest.mark.parametrize(
    ("relu", "biased", "weight", "bias"),
    [
        (RELU, WITH_BIAS, 2 / (2 * 10), 2 / 2),
        (RELU, NO_BIAS, 2 / 10, None),
        (NO_RELU, WITH_BIAS, 1 / (2 * 10), 1 / 2),
        (NO_RELU, NO_BIAS, 1 / 10, None),
    ],
)
def test_hyperfan_in(relu: bool, biased: bool, weight: float, bias: float | None) -> None:
    assert var(hl.HyperfanIn(relu), WEIGHT, biased) == pytest.approx(weight, rel=1e-12)
    if bias is not None:
        assert var(hl.HyperfanIn(relu), BIAS, biased) == pytest.approx(bias, rel=1e-12)


@pytest.mark.parametrize(
    ("relu", "weight", "bias"), [(RELU, 2 / 40, 2 * (1 - 10 / 40)), (NO_RELU, 1 / 40, 1 - 10 / 40)]
)
def test_hyperfan_out(relu: bool, weight: float, bias: float) -> None:
    for biased in (WITH_BIAS, NO_BIAS):
        assert var(hl.HyperfanOut(relu), WEIGHT, biased) == pytest.approx(weight, rel=1e-12)
    assert var(hl.HyperfanOut(relu), BIAS) == pytest.approx(bias, rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "out_axes"), [((3, 5), (0,)), ((5, 3), (0,)), ((3, 2, 4), (2,)), ((2, 3, 4), (0, 2))]
)
def test_orthogonal_matrices(shape: tuple[int, ...], out_axes: tuple[int, ...]) -> None:
    draws = np.random.default_rng(0).standard_normal((4, math.prod(shape)))
    made = Orthogonals(shape, out_axes, 1.5).numbers(draws)
    matrices = np.moveaxis(
        made.reshape(4, *shape), [1 + a for a in out_axes], range(1, 1 + len(out_axes))
    )
    matrices = matrices.reshape(4, math.prod(shape[a] for a in out_axes), -1)
    values = np.linalg.svd(matrices, compute_uv=False)
    np.testing.assert_allclose(values, 1.5, rtol=1e-12)
    # Draws of their own, and the sign of each column is drawn too (Haar's distribution).
    assert not np.allclose(made[0], made[1])
    many = Orthogonals((2, 2), (0,), 1.0).numbers(
        np.random.default_rng(1).standard_normal((4000, 4))
    )
    np.testing.assert_allclose(many.mean(0), 0.0, atol=0.05)


def test_orthogonal_leaves_the_rest_as_the_template() -> None:
    assert hl.Orthogonal().start(BIAS, True) == hl.Native().start(BIAS, True)
    assert hl.Orthogonal(2.0).start(WEIGHT, True).orthogonals == Orthogonals((40, 10), (0,), 2.0)


def test_hyperfan_out_of_a_narrowing_layer_has_no_bias() -> None:
    # 1 - d_j / d_i is negative for more inputs than outputs.
    weight, bias = linear("fc", 40, 10)
    assert var(hl.HyperfanOut(), bias) == 0.0
    assert var(hl.HyperfanOut(), weight) == pytest.approx(2 / 10)
    _, square = linear("fc", 10, 10)
    assert var(hl.HyperfanOut(), square) == 0.0


def test_harmonic_is_the_harmonic_mean() -> None:
    # in: 2 / (2 * 10) = 0.1; out: 2 / 40 = 0.05.
    assert var(hl.Harmonic(), WEIGHT) == pytest.approx(2 / (1 / 0.1 + 1 / 0.05), rel=1e-12)
    # in: 1; out: 1.5.
    assert var(hl.Harmonic(), BIAS) == pytest.approx(1.2, rel=1e-12)


def test_harmonic_lies_between_the_two_and_is_zero_where_one_is() -> None:
    for weight in (WEIGHT, conv("conv", 3, 8)[0], linear("fc", 7, 3)[0]):
        both = sorted([var(hl.HyperfanIn(), weight), var(hl.HyperfanOut(), weight)])
        assert both[0] <= var(hl.Harmonic(), weight) <= both[1]
    assert var(hl.Harmonic(), linear("fc", 40, 10)[1]) == 0.0


def test_harmonic_is_not_the_formula_that_hypnettorch_has_under_this_name() -> None:
    # hypnettorch 0.0.4 computes 2 * (1 / var_in + 1 / var_out): 30000 where 1.33e-4 is meant.
    weight, _ = linear("fc", 10_000, 20_000)
    var_in, var_out = var(hl.HyperfanIn(), weight, NO_BIAS), var(hl.HyperfanOut(), weight, NO_BIAS)
    assert (var_in, var_out) == (pytest.approx(2e-4), pytest.approx(1e-4))
    assert var(hl.Harmonic(), weight, NO_BIAS) == pytest.approx(1.3333e-4, rel=1e-4)
    assert 2 * (1 / var_in + 1 / var_out) == pytest.approx(30_000)


def test_a_convolution_counts_its_kernel() -> None:
    weight, bias = conv("conv", 4, 8, kernel=3)
    assert var(hl.HyperfanIn(), weight) == pytest.approx(2 / (2 * 4 * 9))
    assert var(hl.HyperfanOut(), weight) == pytest.approx(2 / (8 * 9))
    assert var(hl.HyperfanOut(), bias) == pytest.approx(2 * (1 - 4 / 8))


@pytest.mark.parametrize("init", [hl.HyperfanIn(), hl.HyperfanOut(), hl.Harmonic()], ids=repr)
def test_norms_start_at_one_and_zero_and_embeddings_at_unit_variance(init: Init) -> None:
    scale, shift = norm("norm", 4)
    assert (init.start(scale, False).mean, init.start(scale, False).std) == (1.0, 0.0)
    assert (init.start(shift, False).mean, init.start(shift, False).std) == (0.0, 0.0)
    (table,) = embedding("embedding", 10, 4)
    assert var(init, table) == 1.0


def test_native_starts_as_the_template() -> None:
    tensor = TensorSpec("w", (3,), Role.NORM_SCALE, mean=0.9, std=0.2)
    start = hl.Native().start(tensor, False)
    assert (start.mean, start.std, start.native, start.exact) == (0.9, 0.2, False, False)


def test_bias_hyperinit_is_exactly_the_template() -> None:
    start = hl.BiasHyperInit().start(WEIGHT, True)
    assert (start.std, start.native, start.exact) == (0.0, True, True)


def test_unscaled_is_the_same_for_all() -> None:
    for tensor in (WEIGHT, BIAS, *norm("norm", 3)):
        assert var(hl.Unscaled(0.3), tensor) == pytest.approx(0.09)


def _stds(layout: object, init: Init) -> dict[str, float]:
    """Return the one std that a plan gives each tensor."""
    spec = target(linear("a", 10, 40), linear("b", 40, 10), conv("conv", 4, 8))
    plan = hl.compile_plan(spec, hl.Vector(3), layout=layout, init=init)  # type: ignore[arg-type]
    found = {}
    for entry in plan.entries:
        _, stds, _ = starts_of(plan, entry.pieces[0])
        np.testing.assert_allclose(stds, stds[0])
        found[entry.tensor] = float(stds[0])
    return found


@pytest.mark.parametrize("layout", [hl.Full(), hl.Chunked(17), hl.Grouped(unit=hl.Tiles(4))])
def test_a_plan_knows_which_biases_are_generated(layout: hl.Layout) -> None:
    # rel: a scale within 2 % of 1 counts as 1. The rules differ by a factor of sqrt(2).
    with_bias = _stds(layout, hl.HyperfanIn())
    assert with_bias["a.weight"] == pytest.approx(math.sqrt(2 / (2 * 10)), rel=0.02)
    assert with_bias["b.weight"] == pytest.approx(math.sqrt(2 / (2 * 40)), rel=0.02)
    without = _stds({"*.weight": layout}, hl.HyperfanIn())
    assert without["a.weight"] == pytest.approx(math.sqrt(2 / 10), rel=0.02)
    assert without["b.weight"] == pytest.approx(math.sqrt(2 / 40), rel=0.02)
    # Only a layer's own bias counts.
    some = _stds({"*.weight": layout, "a.bias": layout}, hl.HyperfanIn())
    assert some["a.weight"] == pytest.approx(math.sqrt(2 / (2 * 10)), rel=0.02)
    assert some["b.weight"] == pytest.approx(math.sqrt(2 / 40), rel=0.02)
