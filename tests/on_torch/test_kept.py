"""A file that an early version wrote is read for ever."""

from __future__ import annotations

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
