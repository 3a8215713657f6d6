"""`Given`: a generator of the user's own that returns the numbers themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import hyperloom.torch as hl
from hyperloom._core.reference import executor


def target() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 5))


NUM = sum(p.numel() for p in target().parameters())


def cut(flat: Tensor) -> dict[str, Tensor]:
    """Cut one flat vector by hand."""
    made, start = {}, 0
    for name, like in target().named_parameters():
        made[name] = flat[start : start + like.numel()].view(like.shape)
        start += like.numel()
    assert start == len(flat)
    return made


def test_the_target_as_a_function_of_a_flat_vector() -> None:
    hnet = hl.HyperNetwork(target(), condition=hl.Vector(NUM), layout=hl.Given())
    assert hnet.plan.num_parameters == 0
    assert not list(hnet.parameters())
    flat, x = torch.randn(4, NUM, requires_grad=True), torch.randn(4, 3, 2)
    y = hnet(x, condition=flat)
    for i in range(4):
        expected = functional_call(target(), cut(flat[i]), (x[i],))
        torch.testing.assert_close(y[i], expected)
        torch.testing.assert_close(hnet(x[i], condition=flat[i]), expected)
        made = executor.generate(hnet.plan, {}, flat[i].detach().numpy())
        assert all((made[n] == v.detach().numpy()).all() for n, v in cut(flat[i]).items())
    (ours,) = torch.autograd.grad(y.square().sum(), flat)
    loss = sum(
        functional_call(target(), cut(f), (v,)).square().sum() for f, v in zip(flat, x, strict=True)
    )
    (theirs,) = torch.autograd.grad(loss, flat)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("where", ["condition", "trunk"])
def test_a_generator_of_ones_own(where: str) -> None:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, NUM))
    choices: Any = {"condition": hl.Vector(3), "trunk": generator}
    if where == "condition":
        choices = {"condition": generator}
    hnet = hl.HyperNetwork(target(), layout=hl.Given(), **choices)
    x, c = torch.randn(4, 2), torch.randn(4, 3)
    y = hnet(x, condition=c)
    for i in range(4):
        expected = functional_call(target(), cut(generator(c[i])), (x[i],))
        torch.testing.assert_close(y[i], expected)
    assert {id(p) for p in hnet.parameters()} == {id(p) for p in generator.parameters()}
    assert "given: the features are the numbers" in repr(hnet)
    assert all(u.choice == "dense" for u in hnet.explain(x, condition=c).used)


def test_beside_other_layouts_and_with_forms() -> None:
    torch.manual_seed(0)
    pretrained = target()
    layout = {"0.*": hl.Given(), "2.weight": hl.Full()}
    forms = {"0.weight": hl.Scale(), "0.bias": hl.Delta()}
    hnet = hl.HyperNetwork(pretrained, condition=hl.Vector(12), layout=layout, form=forms)
    x, c = torch.randn(3, 7, 2), torch.randn(3, 12)
    made = hnet.generate(c)
    scale, bias = c[:, :6], c[:, 6:]
    weight, shift = pretrained.get_parameter("0.weight"), pretrained.get_parameter("0.bias")
    torch.testing.assert_close(made["0.weight"], weight * (1 + scale).unsqueeze(-1))
    torch.testing.assert_close(made["0.bias"], shift + bias)
    torch.testing.assert_close(hnet(x, condition=c), hnet.run(made, x))


def test_continual_learning_and_checkpoints(tmp_path: Path) -> None:
    torch.manual_seed(0)
    hnet = hl.HyperNetwork(
        target(), condition=hl.Embedding(3, 4), trunk=hl.MLP(8, NUM), layout=hl.Given()
    )
    regularizer = hl.OutputRegularizer(1.0)
    regularizer.remember(hnet, range(2))
    before = hnet.generate(range(2))
    with torch.no_grad():
        for p in hnet.parameters():
            p.add_(0.1)
    after = hnet.generate(range(2))
    expected = sum((after[n] - before[n]).square().sum() for n in before) / 2
    torch.testing.assert_close(regularizer(hnet), expected)
    hl.save(hnet, tmp_path / "given.safetensors")
    again = hl.load(tmp_path / "given.safetensors", target())
    x = torch.randn(7, 2)
    assert torch.equal(again(x, condition=2), hnet(x, condition=2))


def test_another_width_is_refused() -> None:
    wanted = rf"layout: got Given\(\) with features of width 3; wanted {NUM} features"
    with pytest.raises(ValueError, match=wanted):
        hl.HyperNetwork(target(), condition=hl.Vector(3), layout=hl.Given())
    with pytest.raises(ValueError, match=r"init: got BiasHyperInit\(\) for '0.weight'"):
        hl.HyperNetwork(
            target(), condition=hl.Vector(NUM), layout=hl.Given(), init=hl.BiasHyperInit()
        )
