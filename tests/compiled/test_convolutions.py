"""Convolutions inside `torch.compile`: the kernels of PyTorch, whatever sizes come."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import hyperloom.torch as hl

pytestmark = pytest.mark.filterwarnings("ignore")  # what torch.compile imports and does inside
COMPILER = shutil.which("c++") or shutil.which("g++")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def small() -> nn.Module:
    """Return two strided convolutions, a pool and a linear layer, of images `(N, 3, H, W)`."""
    parts = nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU()
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


class Kinds(nn.Module):
    """Convolutions of one, two and three axes, with groups, and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(4, 4, 2, groups=2)
        self.grow, self.last = nn.ConvTranspose1d(4, 3, 2, 2), nn.Conv3d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).tanh())
        return self.last(self.grow(x.flatten(2))[..., None, None]).mean((-1, -2, -3))


def run(hnet: Any, x: Tensor, ids: Tensor, wanted: list[nn.Parameter]) -> Any:
    y = hnet(x, condition=ids)
    return y, torch.autograd.grad(y.square().sum(), wanted)


def drawn(num: int, rows: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.randn(num, rows, 3, height, width, dtype=torch.float64), torch.arange(num)


@pytest.mark.parametrize(
    ("make", "backend"),
    [
        pytest.param(small, "aot_eager", marks=pytest.mark.slow),
        pytest.param(Kinds, "aot_eager", marks=pytest.mark.slow),
        pytest.param(
            small,
            "inductor",
            marks=[pytest.mark.slow, pytest.mark.skipif(not COMPILER, reason="needs C++")],
        ),
    ],
)
def test_images_of_other_sizes(make: Any, backend: str) -> None:
    """Height, then width and number of conditions change: outputs and gradients of eager mode."""
    hnet = hl.HyperNetwork(make().double(), condition=hl.Embedding(9, 3))
    parameters = list(hnet.parameters())
    calls = [drawn(3, 2, 16, 16), drawn(3, 2, 20, 16), drawn(4, 2, 20, 20)]
    expected = [run(hnet, *call, parameters) for call in calls]
    compiled = torch.compile(hnet, backend=backend, fullgraph=True)
    for call, known in zip(calls, expected, strict=True):
        found = run(compiled, *call, parameters)
        torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-9)


def test_a_new_number_of_conditions_compiles_again() -> None:
    """As in plain `vmap`, whose convolution has a group for each condition. Other values do not."""
    hnet = hl.HyperNetwork(nn.Conv1d(3, 2, 3).double(), condition=hl.Embedding(9, 3))
    parameters = list(hnet.parameters())
    numbers = ((7, 1), (4, 2), (7, 2), (4, 2))
    calls = [
        (torch.randn(num, 3, 8, dtype=torch.float64), torch.randperm(9)[:num]) for num, _ in numbers
    ]
    expected = [run(hnet, *call, parameters) for call in calls]
    counter = CompileCounter()
    compiled = torch.compile(hnet, backend=counter, fullgraph=True, dynamic=True)
    for (_, graphs), call, known in zip(numbers, calls, expected, strict=True):
        torch.testing.assert_close(run(compiled, *call, parameters), known, rtol=1e-9, atol=1e-9)
        assert counter.frame_count == graphs
