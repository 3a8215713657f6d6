"""Ties, kept tensors, deltas, shared tensors, and networks taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import hyperloom.torch as hl
from hyperloom import Layout
from tests._support.on_torch import shaken
from tests.on_torch.builders import LAYOUTS, X, close, identical, make, mlp
from tests.on_torch.snapshots import unchanged

# ---- ties ----------------------------------------------------------------------------------------


class TwoNames(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class TwoLayers(nn.Module):
    """Two layers that share their weight, not their bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def chain_of_one() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer)


@pytest.mark.parametrize("build", [TwoNames, TwoLayers, chain_of_one])
@pytest.mark.parametrize("layout", ["full", "chunked", "grouped", "per-condition", "shared"])
def test_ties_are_generated_once_and_used_everywhere(
    build: Callable[[], nn.Module], layout: str
) -> None:
    target = build()
    one, other = ("0", "2") if isinstance(target, nn.Sequential) else ("first", "second")
    with unchanged(target):
        hnet = make(target, layout=LAYOUTS[layout])
        made = hnet.generate([0, 1])
        names = [f"{one}.weight", f"{one}.bias"]
        names += [f"{other}.bias"] if build is TwoLayers else []
        assert list(made) == names
        assert hnet.plan.num_target_parameters == sum(p.numel() for p in target.parameters())
        y = hnet(X, condition=[0, 1])
        for i in range(2):
            weight, bias = made[f"{one}.weight"][i], made[f"{one}.bias"][i]
            last = made.get(f"{other}.bias", made[f"{one}.bias"])[i]
            expected = F.linear(torch.tanh(F.linear(X[i], weight, bias)), weight, last)
            close(y[i], expected)
            close(hnet(X[i], condition=i), expected)
            built = hnet.instantiate(i)
            assert built.get_submodule(one).weight is built.get_submodule(other).weight
            close(built(X[i]), expected)
            if build is not TwoLayers:
                assert built.get_submodule(one) is built.get_submodule(other)
        # Both uses count in the gradient.
        (grad,) = torch.autograd.grad(y.sum(), made[f"{one}.weight"], allow_unused=True)
        assert grad is None  # generated anew in the call
        again = hnet.run(made, X)
        (grad,) = torch.autograd.grad(again.sum(), made[f"{one}.weight"])
    leaf = made[f"{one}.weight"].detach().clone().requires_grad_()
    rest = {name: value.detach() for name, value in made.items()}
    last = rest.get(f"{other}.bias", rest[f"{one}.bias"])
    hidden = torch.tanh(torch.baddbmm(rest[f"{one}.bias"].unsqueeze(1), X, leaf.mT))
    torch.baddbmm(last.unsqueeze(1), hidden, leaf.mT).sum().backward()
    close(grad, leaf.grad)


def test_a_tie_can_be_named_by_any_of_its_names() -> None:
    hnet = make(TwoLayers(), layout={"second.weight": hl.Full()})
    assert list(hnet.generate(0)) == ["first.weight"]
    assert hnet.plan.kept == ("first.bias", "second.bias")


def test_kept_ties_stay_tied() -> None:
    target = TwoLayers()
    hnet = make(target, layout={"*.bias": hl.Full()})
    built = hnet.instantiate(0)
    assert built.first.weight is built.second.weight  # type: ignore[union-attr]
    assert torch.equal(built.first.weight, target.first.weight)  # type: ignore[union-attr, arg-type]


def test_a_target_of_scalars() -> None:
    class Scalars(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.shift = nn.Parameter(torch.tensor(3.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x + self.shift

    for layout in (hl.Full(), hl.Chunked(3), hl.Grouped(), hl.PerCondition(), hl.Shared()):
        hnet = make(Scalars(), layout=layout)
        made = hnet.generate([0, 1])
        assert hnet.generate(0)["scale"].shape == ()
        for i in range(2):
            expected = made["scale"][i] * X[i] + made["shift"][i]
            close(hnet(X[i], condition=i), expected)
            close(hnet(X, condition=[0, 1])[i], expected)


# ---- kept tensors, deltas, shared tensors --------------------------------------------------------


def test_kept_tensors_are_the_targets_own() -> None:
    target = mlp()
    hnet = make(target, layout={"0.*": hl.Full()})
    assert set(hnet.generate(0)) == {"0.weight", "0.bias"}
    built = dict(hnet.instantiate(0).named_parameters())
    for name in ("2.weight", "2.bias", "4.weight", "4.bias"):
        assert torch.equal(built[name], dict(target.named_parameters())[name])
    assert not any("kept" in name for name, _ in hnet.named_parameters())
    y = hnet(X, condition=[0, 1])
    for i in range(2):
        made = {name: value[i] for name, value in hnet.generate([0, 1]).items()}
        close(y[i], functional_call(target, made, (X[i],)))


def test_kept_tensors_may_be_given() -> None:
    hnet = make(layout={"0.*": hl.Full()})
    made = hnet.generate([0, 1])
    zero = {"4.weight": torch.zeros(2, 4), "4.bias": torch.ones(2)}
    assert torch.equal(hnet.run({**made, **zero}, X), torch.ones(2, 7, 2))
    close(hnet.run(made, X), hnet(X, condition=[0, 1]))


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "mix"])
def test_a_delta_starts_exactly_as_the_target(layout: str, trained: bool) -> None:
    target = mlp()
    form = hl.Delta(trained=trained)
    hnet = hl.HyperNetwork(
        target,
        condition=hl.Embedding(3, 5),
        trunk=hl.MLP(6),
        layout=LAYOUTS[layout],
        form=form,
    )
    own = dict(target.named_parameters())
    for value in (hnet.generate([0, 1, 2]), hnet.generate(1)):
        for name, made in value.items():
            assert torch.equal(made, own[name].expand_as(made)), name
    close(hnet(X, condition=[0, 1]), target(X))
    bases = {n for n, _ in hnet.named_parameters() if n.startswith("bases.")}
    assert bases == ({f"bases.{name}" for name in own} if trained else set())
    # It learns: the change always, the base if it is trained.
    optimizer = torch.optim.SGD(hnet.parameters(), lr=0.1)
    hnet(X, condition=[0, 1]).square().sum().backward()
    optimizer.step()
    assert not torch.equal(hnet.generate(0)["0.weight"], own["0.weight"])
    held = dict(hnet.bases.tensors())["0.weight"]
    assert torch.equal(held, own["0.weight"]) != trained


def test_new_ids_of_a_delta_start_as_the_target_too() -> None:
    target = mlp()
    for layout in (hl.Full(), hl.PerCondition(), hl.Chunked(7, per_condition=True)):
        hnet = hl.HyperNetwork(target, condition=hl.Embedding(3, 5), layout=layout, form=hl.Delta())
        hnet.add_conditions(1)
        assert identical(hnet.generate(3), dict(target.named_parameters()))


def test_shared_starts_as_a_copy() -> None:
    target = mlp()
    layout = {"0.*": hl.Shared(), "*": hl.Full()}
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(3, 5), layout=layout)
    made = hnet.generate([0, 1, 2])
    for name in ("0.weight", "0.bias"):
        own = dict(target.named_parameters())[name]
        assert torch.equal(made[name], own.expand_as(made[name]))
    # One for all conditions, and learned.
    hnet(X, condition=[0, 1]).sum().backward()
    assert hnet.heads["shared"].row.grad.any()  # type: ignore[union-attr]


def test_bias_hyperinit_starts_as_a_copy() -> None:
    target = mlp()
    for layout in (hl.Full(), hl.PerCondition(), hl.Shared()):
        hnet = hl.HyperNetwork(
            target, condition=hl.Embedding(3, 5), layout=layout, init=hl.BiasHyperInit()
        )
        hnet.add_conditions(1)
        for i in range(4):
            assert identical(hnet.generate(i), dict(target.named_parameters()))


@pytest.mark.parametrize("layout", [hl.Full(), hl.PerCondition(), hl.Shared()], ids=repr)
def test_every_generated_matrix_starts_orthogonal(layout: Layout) -> None:
    target = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(20, 7), nn.LayerNorm(7))
    hnet = hl.HyperNetwork(
        target.double(), condition=hl.Embedding(3, 5), layout=layout, init=hl.Orthogonal(1.5)
    )
    hnet.add_conditions(1)
    with torch.no_grad():
        made = hnet.generate(range(4))
    for name in ("0.weight", "2.weight"):
        values = torch.linalg.svdvals(made[name].flatten(2))
        torch.testing.assert_close(values, torch.full_like(values, 1.5), rtol=1e-12, atol=0)
        own = isinstance(layout, hl.PerCondition)
        assert torch.equal(made[name][0], made[name][3]) is not own
    assert torch.equal(made["3.weight"], torch.ones(4, 7).double())


# ---- instantiate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_instance_is_the_network(layout: str) -> None:
    hnet = make(layout=LAYOUTS[layout], form={"0.*": hl.Delta()})
    for i in range(3):
        made, built = hnet.generate(i), hnet.instantiate(i)
        assert type(built) is nn.Sequential
        for name, value in built.named_parameters():
            if name in made:
                assert torch.equal(value, made[name])
            assert value.is_leaf
            assert value.requires_grad
        close(built(X), hnet(X, condition=i))
        assert list(built.state_dict()) == list(mlp().state_dict())


def test_an_instance_is_independent() -> None:
    hnet = make(layout={"0.*": hl.Full()})
    with unchanged(hnet):
        built = hnet.instantiate(0)
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.zero_()
        built.eval()
        assert not identical(
            dict(built.named_parameters()), dict(hnet.instantiate(0).named_parameters())
        )
    before = built(X)
    shaken(hnet)
    assert torch.equal(built(X), before)


def test_an_instance_keeps_what_the_target_has() -> None:
    class Rich(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.fc.bias.requires_grad_(False)
            self.register_buffer("count", torch.tensor(5))
            self.register_buffer("cache", torch.ones(2), persistent=False)
            self.options = {"power": 2}

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) ** self.options["power"] + self.count + self.cache

    target = Rich()
    hnet = make(target, layout={"fc.weight": hl.Full()}).eval()
    built: Any = hnet.instantiate(1)
    assert not built.training
    assert not built.fc.bias.requires_grad
    assert built.fc.weight.requires_grad
    assert (built.count, built.options) == (5, {"power": 2})
    assert built.options is not target.options
    assert list(built.state_dict()) == list(target.state_dict())
    close(built(X), hnet(X, condition=1))
