"""A file that an early version wrote is read for ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import hyperloom.torch as hl
from tests.core.kept import CONDITION, OUTPUT, PATH, generated


def test_a_file_of_an_early_version() -> None:
    target = nn.Sequential(
        *(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()),
        *(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)),
    )
    hnet = hl.load(PATH, target).eval()
    condition = (CONDITION[0], torch.from_numpy(CONDITION[1]))
    for name, value in hnet.generate(condition).items():
        numbers = generated()[name]
        np.testing.assert_allclose(value.detach().ravel(), numbers, rtol=1e-4, atol=1e-5)
    output = hnet(torch.ones(1, 3), condition=condition).detach()
    np.testing.assert_allclose(output, OUTPUT, rtol=1e-3)


def test_frozen_parameters_stay_as_they_are_where_others_are_trained() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.randn(3, 4), requires_grad=False)
            self.layer = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x + self.places)

    target = Placed()
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(2, 3))
    assert hnet.plan.kept == ("places",)
    params, x = hnet.generate(1), torch.randn(5, 3, 4)
    wanted = (x + target.places) @ params["layer.weight"].T + params["layer.bias"]
    torch.testing.assert_close(hnet(x, condition=1), wanted)
    named = hl.HyperNetwork(target, condition=hl.Embedding(2, 3), layout={"*": hl.Full()})
    assert named.plan.kept == ()
    target.requires_grad_(False)
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(2, 3))
    assert hnet.plan.kept == ()


def test_a_file_keeps_its_meaning_when_parameters_are_frozen_later(tmp_path: Path) -> None:
    target = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(2, 3))
    hl.save(hnet, tmp_path / "h.safetensors")
    target[0].requires_grad_(False)
    loaded = hl.load(tmp_path / "h.safetensors", target)
    assert loaded.plan.kept == ()
    x = torch.randn(5, 3)
    assert torch.equal(loaded(x, condition=1), hnet(x, condition=1))
