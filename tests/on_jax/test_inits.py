"""How generated networks start out in JAX: variances measured, against the papers' formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import hyperloom.jax as hl
import hyperloom.torch as hlt

IDS = 64


class Net(nnx.Module):
    """Layers that widen and narrow; a norm and an embedding. Run by nobody here."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.wide = nnx.Linear(24, 96, rngs=rngs)
        self.narrow = nnx.Linear(96, 32, use_bias=False, rngs=rngs)
        self.conv = nnx.Conv(8, 64, (3, 3), rngs=rngs)
        self.norm = nnx.LayerNorm(64, rngs=rngs)
        self.table = nnx.Embed(30, 40, rngs=rngs)


# Inputs and outputs of each weight, kernels counted in, as a reader counts them.
FANS = {"wide": (24, 96), "narrow": (96, 32), "conv": (8 * 9, 64 * 9)}
BIASED = {"wide", "conv"}


def fan_in(relu: bool) -> Callable[..., float]:
    gain = 2 if relu else 1
    return lambda i, o, kernel, biased: gain / (i * (2 if biased else 1)) if kernel else gain / 2


def fan_out(relu: bool) -> Callable[..., float]:
    gain = 2 if relu else 1
    return lambda i, o, kernel, biased: gain / o if kernel else gain * (1 - i / o)


def harmonic(relu: bool) -> Callable[..., float]:
    return lambda *args: 2 / (1 / fan_in(relu)(*args) + 1 / fan_out(relu)(*args))


RULES: dict[str, tuple[Any, Callable[..., float]]] = {
    "in, Kaiming": (hl.HyperfanIn(), fan_in(relu=True)),
    "in, Xavier": (hl.HyperfanIn(relu=False), fan_in(relu=False)),
    "out, Kaiming": (hl.HyperfanOut(), fan_out(relu=True)),
    "out, Xavier": (hl.HyperfanOut(relu=False), fan_out(relu=False)),
    "harmonic, Kaiming": (hl.Harmonic(), harmonic(relu=True)),
    "harmonic, Xavier": (hl.Harmonic(relu=False), harmonic(relu=False)),
}
LAYOUTS = {
    "full": hl.Full(),
    "chunked": hl.Chunked(300, embedding=8),
    "tensors": hl.Grouped(embedding=8),
    "layers": hl.Grouped(embedding=8, unit=hl.Layers()),
    "gcd": hl.Grouped(embedding=8, unit=hl.Tiles(128)),
}
# Every rule and every layout; the rest of the table is slow.
FEW = [
    ("in, Kaiming", "chunked"),
    ("in, Xavier", "full"),
    ("out, Kaiming", "gcd"),
    ("out, Xavier", "chunked"),
    ("harmonic, Kaiming", "chunked"),
    ("harmonic, Xavier", "layers"),
    ("harmonic, Kaiming", "tensors"),
]
SLOW = [(r, la) for r in RULES for la in LAYOUTS if (r, la) not in FEW]


def mean_squares(init: Any, layout: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return each tensor's mean square over all ids, and the tensors."""
    made: dict[str, list[np.ndarray]] = {}
    for seed in range(2):
        hnet = hl.HyperNetwork(
            Net(),
            condition=hl.Embedding(IDS, 16),
            trunk=hl.MLP(64),
            layout=layout,
            init=init,
            rngs=nnx.Rngs(seed),
        )
        for name, value in jax.jit(hnet.generate)(jnp.arange(IDS)).items():
            made.setdefault(name, []).append(np.asarray(value, np.float64))
    values = {name: np.stack(both) for name, both in made.items()}
    return {name: float(np.mean(v**2)) for name, v in values.items()}, values


def check(rule: str, layout: str) -> None:
    init, variance = RULES[rule]
    found, values = mean_squares(init, LAYOUTS[layout])
    for layer, fans in FANS.items():
        wanted = variance(*fans, True, layer in BIASED)
        assert found[f"{layer}.kernel"] == pytest.approx(wanted, rel=0.15), layer
        if layer in BIASED:
            wanted = variance(*fans, False, True)
            assert found[f"{layer}.bias"] == pytest.approx(wanted, rel=0.35), layer
    assert found["table.embedding"] == pytest.approx(1, rel=0.15)
    # Constant where a tensor has rows of its own, else around its constant.
    spread = 1e-6 if layout == "full" else 1.5
    for name, constant in (("norm.scale", 1.0), ("norm.bias", 0.0)):
        assert np.abs(values[name] - constant).std() < spread
        assert values[name].mean() == pytest.approx(constant, abs=0.1 * spread + 1e-6)


@pytest.mark.parametrize(("rule", "layout"), FEW)
def test_measured_variances(rule: str, layout: str) -> None:
    check(rule, layout)


@pytest.mark.slow  # the whole table
@pytest.mark.parametrize(("rule", "layout"), SLOW)
def test_measured_variances_of_all(rule: str, layout: str) -> None:
    check(rule, layout)


DEPTH, WIDTH = 6, 64


def mean_squares_by_layer(init: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean squares of activations, and of gradients, after each of some ReLU layers."""
    shapes = {f"{i}.kernel": (WIDTH, WIDTH) for i in range(DEPTH)}
    shapes |= {f"{i}.bias": (WIDTH,) for i in range(DEPTH)}
    hnet = hl.HyperNetwork(
        hl.Shapes(shapes),
        condition=hl.Embedding(IDS, 16),
        trunk=hl.MLP(64),
        layout=hl.Chunked(500, embedding=8),
        init=init,
        rngs=nnx.Rngs(0),
    )
    made = {n: np.asarray(v) for n, v in jax.jit(hnet.generate)(jnp.arange(IDS)).items()}
    draws = np.random.default_rng(0)
    x = draws.standard_normal((IDS, 20, WIDTH))
    gates, forward = [], []
    for i in range(DEPTH):
        x = np.maximum(x @ made[f"{i}.kernel"] + made[f"{i}.bias"][:, None], 0)
        gates.append(x > 0)
        forward.append(np.mean(x**2))
    slope, backward = draws.standard_normal(x.shape), []
    for i in reversed(range(DEPTH)):
        slope = (slope * gates[i]) @ made[f"{i}.kernel"].swapaxes(1, 2)
        backward.append(np.mean(slope**2))
    return np.array(forward), np.array(backward)


def test_hyperfans_keep_what_they_are_for() -> None:
    forward, _ = mean_squares_by_layer(hl.HyperfanIn())
    assert np.all((forward > 0.5) & (forward < 2)), forward
    _, backward = mean_squares_by_layer(hl.HyperfanOut())
    assert np.all((backward > 0.4) & (backward < 2.5)), backward
    forward, _ = mean_squares_by_layer(hl.Unscaled())
    assert forward[-1] > 1e6


def test_a_wrong_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "out, Kaiming", (hl.HyperfanOut(relu=False), fan_out(relu=True)))
    with pytest.raises(AssertionError):
        check("out, Kaiming", "full")


def test_native_starts_as_the_template_does() -> None:
    own = {t.name: t.mean**2 + t.std**2 for t in hl.target_spec(Net())}
    found, _ = mean_squares(None, hl.Chunked(300, embedding=8))
    for name in ("wide.kernel", "narrow.kernel", "conv.kernel", "table.embedding"):
        assert found[name] == pytest.approx(own[name], rel=0.15)


# ---- exactly the template -----------------------------------------------------------------------


@pytest.mark.parametrize("layout", [hl.Full(), hl.PerCondition(), hl.Shared()], ids=repr)
def test_bias_hyperinit_is_the_template_for_every_condition(layout: Any) -> None:
    target = nnx.Linear(5, 4, bias_init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(0))
    own = {name: variable[...] for name, variable in nnx.to_flat_state(nnx.state(target))}
    hnet = hl.HyperNetwork(
        target,
        condition=hl.Embedding(3, 2),
        trunk=hl.MLP(6),
        layout=layout,
        init=hl.BiasHyperInit(),
        rngs=nnx.Rngs(1),
    )
    made = hnet.generate(jnp.arange(3))
    for i in range(3):
        np.testing.assert_array_equal(made["kernel"][i], own["kernel",])
        np.testing.assert_array_equal(made["bias"][i], own["bias",])


@pytest.mark.parametrize("layout", [hl.Full(), hl.PerCondition(), hl.Shared()], ids=repr)
def test_every_generated_matrix_starts_orthogonal(layout: Any) -> None:
    target = nnx.Conv(2, 5, (3,), rngs=nnx.Rngs(0))
    condition = hl.Embedding(3, 2)
    hnet = hl.HyperNetwork(
        target, condition=condition, layout=layout, init=hl.Orthogonal(1.5), rngs=nnx.Rngs(1)
    )
    kernels = np.asarray(hnet.generate(jnp.arange(3))["kernel"], np.float64)  # (3, k, in, out)
    values = np.linalg.svd(kernels.reshape(3, 6, 5), compute_uv=False)
    np.testing.assert_allclose(values, 1.5, rtol=1e-5)
    assert np.array_equal(kernels[0], kernels[1]) is not isinstance(layout, hl.PerCondition)


def test_bias_hyperinit_needs_rows_of_its_own() -> None:
    target = nnx.Linear(5, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="BiasHyperInit"):
        hl.HyperNetwork(
            target,
            condition=hl.Embedding(3, 2),
            layout=hl.Chunked(3),
            init=hl.BiasHyperInit(),
            rngs=nnx.Rngs(1),
        )


# ---- magnitude-invariant parametrisation --------------------------------------------------------


def test_angles_keep_the_magnitude(tmp_path: Path) -> None:
    """std of the generated tensors from the smallest to the largest condition: 100x without."""
    gammas = jnp.array([[0.01], [0.1], [0.3], [0.6], [1.0]])
    spread = {}
    for condition in (hl.Vector(1), hl.CosSin(1)):
        shapes = hl.Shapes({"weight": (64, 64)})
        hnet = hl.HyperNetwork(shapes, condition=condition, rngs=nnx.Rngs(0))
        made = hnet.generate(gammas)["weight"]
        stds = np.asarray(made).reshape(5, -1).std(1)
        spread[type(condition).__name__] = stds.max() / stds.min()
        hl.save(hnet, tmp_path / "hnet.safetensors")
        twin = hlt.load(tmp_path / "hnet.safetensors", hlt.Shapes({"weight": (64, 64)}))
        theirs = twin.generate(torch.tensor(np.asarray(gammas)))["weight"].detach().numpy()
        np.testing.assert_allclose(made, theirs, atol=1e-6)
    assert spread["Vector"] > 50
    assert spread["CosSin"] < 1.2


def test_the_residual_form_of_angles_starts_as_the_target() -> None:
    target = nnx.Linear(5, 4, rngs=nnx.Rngs(0))
    hnet = hl.HyperNetwork(
        target, condition=hl.CosSin(1), form=hl.Delta(trained=True), rngs=nnx.Rngs(1)
    )
    made = hnet.generate(jnp.array([[0.0], [0.3], [1.0]]))
    for value in made["kernel"]:
        np.testing.assert_array_equal(value, target.kernel[...])
