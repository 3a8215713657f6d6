"""One generator, several networks: a dict of modules as target, in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hyperloom.torch as hl
from tests._support.compare import close
from tests._support.on_torch import hypernetwork
from tests._support.targets import mlp


def networks() -> Any:
    return {"actor": mlp(6, 8, 2), "critic": mlp(9, 8, 1)}


SUM = hl.SlotSum(6, hl.OfLayer(), hl.OfModule(), hl.OfRole())
X, STATE = torch.randn(2, 5, 6), torch.randn(2, 5, 9)


@pytest.mark.parametrize("layout", [hl.Full(), hl.Grouped(SUM)], ids=["full", "grouped"])
def test_each_network_is_run_by_its_name(layout: Any, tmp_path: Path) -> None:
    target = networks()
    hnet = hypernetwork(lambda: target, trunk=hl.Transformer(8, 1, 2), layout=layout)
    ids, generated = [0, 2], hnet.generate([0, 2])
    assert {name.partition(".")[0] for name in generated} == {"actor", "critic"}
    net = hnet.bind(ids)
    for name, x in (("actor", X), ("critic", STATE)):
        y = hnet(x, condition=ids, method=name)
        close(getattr(net, name)(x), y, 1e-5)
        for i, one in enumerate(ids):
            close(hnet(x[i], condition=one, method=name), y[i], 1e-5)
            own = {n.partition(".")[2]: t[i] for n, t in generated.items() if n.startswith(name)}
            close(torch.func.functional_call(target[name], own, (x[i],)), y[i], 1e-5)
            close(getattr(hnet.instantiate(one), name)(x[i]), y[i], 1e-5)
    (net.actor(X).sum() + net.critic(STATE).sum()).backward()
    assert all(p.grad is not None for p in hnet.parameters())
    hl.save(hnet, tmp_path / "a")
    again = hl.load(tmp_path / "a", networks())
    close(again.generate(ids), generated, 0.0)
    assert not any(p.grad is not None for n in target.values() for p in n.parameters())


def test_networks_that_share_a_part() -> None:
    encoder = nn.Linear(6, 4)
    hnet = hypernetwork(
        lambda: {
            "policy": nn.Sequential(encoder, nn.Linear(4, 2)),
            "value": nn.Sequential(encoder, nn.Linear(4, 1)),
        }
    )
    assert hnet.plan.spec["policy.0.weight"].aliases == ("value.0.weight",)
    assert len(hnet.plan.entries) == 6


WRONG: list[tuple[Any, type[Exception], str]] = [
    ({}, ValueError, "target: got an empty dict; wanted a module for each name."),
    ({"a": 3}, TypeError, "target: got 3 for 'a'; wanted a torch.nn.Module for each name."),
    (
        {"train": nn.Linear(2, 2)},
        ValueError,
        "target: got the name 'train'; wanted names of networks, as in {'actor': ..., 'critic': ",
    ),
]


def test_wrong_values_are_named() -> None:
    for target, kind, text in WRONG:
        with pytest.raises(kind) as error:
            hypernetwork(lambda target=target: target)
        assert str(error.value).startswith(text)
    hnet = hypernetwork(networks)
    with pytest.raises(TypeError, match=r"method: got none, for the networks actor, critic; "):
        hnet(X, condition=[0, 1])
    with pytest.raises(ValueError, match=r"method: got 'actr'; wanted a method of Networks"):
        hnet(X, condition=[0, 1], method="actr")
