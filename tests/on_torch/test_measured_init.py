"""Initialisations by measurement: the variance of every generated tensor over many draws.

A seed gives one mean square for each tensor (over its numbers and the conditions). Seeds are
independent, so their mean has a standard error that is measured too; five of them are allowed. That
the error is small beside the formula is asserted as well: a test that cannot fail is none.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom import Form, Layout

SEEDS = 16
IDS = list(range(6))
METHODS: dict[str, Any] = {"in": hl.HyperfanIn, "out": hl.HyperfanOut, "harmonic": hl.Harmonic}
# A measured standard deviation within 2 % of its head's gets no scale.
NO_SCALE = 1.02**2 - 1


def target() -> nn.Module:
    return nn.ModuleDict(
        {
            "table": nn.Embedding(16, 10),
            "conv": nn.Conv2d(4, 16, 3),
            "norm": nn.BatchNorm2d(16),
            "wide": nn.Linear(10, 24),
            "narrow": nn.Linear(24, 8, bias=False),
        }
    )


def formulas(method: str, relu: bool) -> dict[str, float]:
    """Return the variances, each from the papers' formula with its numbers put in by hand."""
    gain = 2.0 if relu else 1.0  # Kaiming's or Xavier's
    both = {
        "conv.weight": (gain / (2 * 4 * 9), gain / (16 * 9)),
        "conv.bias": (gain / 2, gain * (1 - 4 / 16)),
        "wide.weight": (gain / (2 * 10), gain / 24),
        "wide.bias": (gain / 2, gain * (1 - 10 / 24)),
        "narrow.weight": (gain / 24, gain / 8),  # no bias is generated beside it
    }
    made = {"table.weight": 1.0}
    for name, (var_in, var_out) in both.items():
        harmonic = 2 / (1 / var_in + 1 / var_out)
        made[name] = {"in": var_in, "out": var_out, "harmonic": harmonic}[method]
    return made


def measure(seeds: int, **options: Any) -> dict[str, Tensor]:
    """Return the generated tensors `(seeds, conditions, *shape)`."""
    made: dict[str, list[Tensor]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        hnet = hl.HyperNetwork(target(), condition=hl.Embedding(len(IDS), 8), **options)
        with torch.no_grad():
            for name, value in hnet.generate(IDS).items():
                made.setdefault(name, []).append(value.double())
    return {name: torch.stack(values) for name, values in made.items()}


def assert_variance(values: Tensor, wanted: float, name: str, slack: float = 0.0) -> None:
    """Compare the mean square with `wanted`: five standard errors, and `slack` times it."""
    each = values.flatten(1).square().mean(1)
    error = float(each.std()) / math.sqrt(len(each))
    most = 0.12 if values[0, 0].numel() < 50 else 0.06
    assert error < most * wanted, f"{name}: {error / wanted:.3f} of the variance is its own error"
    found = float(each.mean())
    text = f"{name}: variance {found:.4g} ± {error:.2g}, wanted {wanted:.4g}"
    assert abs(found - wanted) <= 5 * error + slack * wanted, text


MLP = hl.MLP(16)
# layout and trunk, and whether tensors share rows of a head.
LAYOUTS: dict[str, tuple[dict[str, Any], bool]] = {
    "Full": ({"layout": hl.Full(), "trunk": MLP}, False),
    "Full, no trunk": ({"layout": hl.Full()}, False),
    "Full, own trunk": ({"layout": hl.Full(), "trunk": "module"}, False),
    "PerCondition": ({"layout": hl.PerCondition()}, False),
    "Chunked 50": ({"layout": hl.Chunked(50, 8), "trunk": MLP}, True),
    "Chunked 7, no trunk": ({"layout": hl.Chunked(7, 8)}, True),
    "Chunked, own embeddings": (
        {"layout": hl.Chunked(50, 8, per_condition=True), "trunk": MLP},
        True,
    ),
    "Chunked, no signs": ({"layout": hl.Chunked(50, 8, signs=False), "trunk": MLP}, True),
    "Grouped by shape": ({"layout": hl.Grouped(embedding=8), "trunk": MLP}, False),
    "Grouped by layer": ({"layout": hl.Grouped(unit=hl.Layers(), embedding=8), "trunk": MLP}, True),
    "Grouped in tiles": ({"layout": hl.Grouped(unit=hl.Tiles(), embedding=8), "trunk": MLP}, True),
    "Direct": ({"layout": hl.Direct(32, 8), "trunk": hl.Deconv((8, 4), (6,), kernel=3)}, True),
    "mix": (
        {
            "layout": {
                "conv.*": hl.Chunked(40, 8),
                "wide.*": hl.Full(),
                "narrow.*": hl.Grouped(embedding=8),
                "*": hl.PerCondition(),
            },
            "trunk": MLP,
        },
        False,
    ),
}
# All of them in `slow`; by default two layouts with every rule and gain, the others in turns.
IN_TURNS = [(method, relu) for method in METHODS for relu in (True, False)]
COMBINATIONS = [
    pytest.param(
        layout,
        method,
        relu,
        id=f"{layout}-{method}-{'kaiming' if relu else 'xavier'}",
        marks=()
        if layout in ("Full", "Chunked 50") or IN_TURNS[i % 6] == (method, relu)
        else pytest.mark.slow,
    )
    for i, layout in enumerate(LAYOUTS)
    for method, relu in IN_TURNS
]


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 12), nn.Softplus(), nn.Linear(12, 10), nn.Tanh())


@pytest.mark.parametrize(("layout", "method", "relu"), COMBINATIONS)
def test_hyperfan(layout: str, method: str, relu: bool) -> None:
    options, sharing = LAYOUTS[layout]
    if options.get("trunk") == "module":
        options = {**options, "trunk": module()}
    made = measure(SEEDS, init=METHODS[method](relu), **options)
    wanted = formulas(method, relu)
    for name, variance in wanted.items():
        assert_variance(made[name], variance, name)
    assert set(made) == {*wanted, "norm.weight", "norm.bias"}
    least = min(wanted.values())
    for name, constant in (("norm.weight", 1.0), ("norm.bias", 0.0)):
        off = made[name] - constant
        if not sharing:
            assert not bool(off.any())
        else:  # the smallest standard deviation of the head (its layer has none)
            assert float(off.square().mean()) < 3 * least


FORMS: dict[str, tuple[Form, Layout]] = {
    "LowRank, Full": (hl.LowRank(4), hl.Full()),
    "LowRank, Chunked": (hl.LowRank(4), hl.Chunked(50, 8)),
    "Templates, Full": (hl.Templates(12), hl.Full()),
    "Templates, Chunked": (hl.Templates(12), hl.Chunked(10, 8)),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_that_are_put_together_have_the_variance_too(name: str) -> None:
    form, layout = FORMS[name]
    names = ("wide.weight", "narrow.weight")
    options = {"form": dict.fromkeys(names, form), "layout": dict.fromkeys(names, layout)}
    made = measure(2 * SEEDS, init=hl.HyperfanIn(), trunk=MLP, **options)
    assert_variance(made["wide.weight"], 2 / 10, "wide.weight")
    assert_variance(made["narrow.weight"], 2 / 24, "narrow.weight")


def test_native_has_the_templates_own_variances() -> None:
    """The mean square of each tensor is that of the template, whatever its draws gave."""
    for layout in (hl.Full(), hl.Chunked(50, 8), hl.Grouped(embedding=8)):
        found: dict[str, list[Tensor]] = {}
        wanted: dict[str, Tensor] = {}
        for seed in range(SEEDS):
            torch.manual_seed(99)  # the same template each time
            net = target()
            torch.manual_seed(seed)
            hnet = hl.HyperNetwork(
                net, condition=hl.Embedding(len(IDS), 8), trunk=MLP, layout=layout
            )
            wanted = {name: p.detach().double() for name, p in net.named_parameters()}
            with torch.no_grad():
                for name, value in hnet.generate(IDS).items():
                    found.setdefault(name, []).append(value.double())
        for name, own in wanted.items():
            if own.std() > 0:
                slack = 0.0 if isinstance(layout, hl.Full) else NO_SCALE
                assert_variance(torch.stack(found[name]), float(own.square().mean()), name, slack)


@pytest.mark.parametrize("layout", [hl.Full(), hl.PerCondition()], ids=repr)
def test_bias_hyperinit_is_the_template_for_every_condition(layout: Layout) -> None:
    """No variance between conditions, and between seeds that of the native initialisation."""
    between: dict[str, list[Tensor]] = {}
    for seed in range(4 * SEEDS):
        torch.manual_seed(seed)
        net = target()
        hnet = hl.HyperNetwork(
            net,
            condition=hl.Embedding(3, 8),
            trunk=None if isinstance(layout, hl.PerCondition) else MLP,
            layout=layout,
            init=hl.BiasHyperInit(),
        )
        with torch.no_grad():
            made = hnet.generate([0, 1, 2])
        for name, parameter in net.named_parameters():
            assert torch.equal(made[name], parameter.detach().expand_as(made[name]))
            between.setdefault(name, []).append(made[name].double())
    # PyTorch: U(±1/sqrt(fan_in)) for weights and biases, so a variance of 1 / (3 fan_in).
    for name, variance in {
        "conv.weight": 1 / (3 * 36),
        "conv.bias": 1 / (3 * 36),
        "wide.weight": 1 / (3 * 10),
        "wide.bias": 1 / (3 * 10),
        "narrow.weight": 1 / (3 * 24),
        "table.weight": 1.0,
    }.items():
        assert_variance(torch.stack(between[name]), variance, name)


GAMMAS = [0.01, 0.1, 0.3, 0.6, 1.0]


@pytest.mark.parametrize(
    "layout", [hl.Full(), hl.Chunked(50, 8), hl.Grouped(embedding=8)], ids=repr
)
def test_magnitudes_do_not_follow_the_condition(layout: Layout) -> None:
    """CosSin: the same variance of every tensor from gamma .01 to 1, that of the rule."""
    made: dict[str, list[Tensor]] = {}
    gammas = torch.tensor(GAMMAS).view(-1, 1)
    for seed in range(3 * SEEDS):
        torch.manual_seed(seed)
        hnet = hl.HyperNetwork(
            target(), condition=hl.CosSin(1), layout=layout, init=hl.HyperfanOut()
        )
        with torch.no_grad():
            for name, value in hnet.generate(gammas).items():
                made.setdefault(name, []).append(value.double())
    wanted = formulas("out", True)
    for name, variance in wanted.items():
        values = torch.stack(made[name])
        for i, gamma in enumerate(GAMMAS):
            assert_variance(values[:, i : i + 1], variance, f"{name} at {gamma}")


def test_magnitude_invariant_residual_starts_as_the_target_and_moves_evenly() -> None:
    """theta = theta_0 + h(E(gamma)): the target for every gamma, and a step moves each as far.

    Without angles a step of gradient descent moves the networks of gamma 1 and .01 by changes
    whose ratio is 10^4: gamma stands in the gradient of the head, and again in its use.
    """
    moved: dict[str, Tensor] = {}
    gammas = torch.tensor(GAMMAS).view(-1, 1)
    direction = torch.randn(24, 10, generator=torch.Generator().manual_seed(1))
    conditions: list[Any] = [hl.Vector(1), hl.CosSin(1)]
    for condition in conditions:
        net = target()
        hnet = hl.HyperNetwork(
            net, condition=condition, layout=hl.Full(), form=hl.Delta(trained=True)
        )
        params = hnet.generate(gammas)
        for name, parameter in net.named_parameters():
            assert torch.equal(params[name], parameter.detach().expand_as(params[name]))
        head = dict(hnet.named_parameters())["heads.full.weight"]
        sizes = []
        for gamma in gammas:
            (grad,) = torch.autograd.grad(
                (hnet.generate(gamma)["wide.weight"] * direction).sum(), [head]
            )
            with torch.no_grad():
                head -= 0.1 * grad
                change = hnet.generate(gamma)["wide.weight"] - net.get_parameter("wide.weight")
                sizes.append(change.std())
                head.zero_()
        moved[type(condition).__name__] = torch.stack(sizes)
    assert float(moved["Vector"][-1] / moved["Vector"][0]) == pytest.approx(1e4, rel=1e-2)
    torch.testing.assert_close(moved["CosSin"] / moved["CosSin"][0], torch.ones(len(GAMMAS)))


def test_a_head_on_a_vector_has_exactly_the_variance_that_was_said() -> None:
    """The draws that features are measured on have the said mean square, not one near it."""
    conditions: list[Any] = [hl.Vector(1, std=3.0), hl.CosSin(1), hl.Noise(2, std=0.5)]
    for condition in conditions:
        torch.manual_seed(0)
        net = nn.Linear(300, 300)
        hnet = hl.HyperNetwork(net, condition=condition, init=hl.Unscaled(2.0))
        head = dict(hnet.named_parameters())["heads.full.weight"]
        bound = 3**0.5 * 2.0 / (head.shape[1] ** 0.5 * condition.std)
        assert float(head.detach().abs().max()) == pytest.approx(bound, rel=1e-3)
