"""Writes into buffers that tensors do not count, and outputs that are no tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests.on_torch.silent import IDS, inputs, made, target

pytestmark = pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")


class Counts(nn.Module):
    """Counts its runs in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("n", torch.zeros(()))


def _data(self: Any, x: Tensor) -> Tensor:
    self.n.data.add_(1.0)
    return self.layer(x) * self.n


def _add(self: Any, x: Tensor) -> Tensor:
    self.n.add_(1.0)
    return self.layer(x) * self.n


def _replace(self: Any, x: Tensor) -> Tensor:
    self.n = self.n + 1
    return self.layer(x) * self.n


WRITES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "data": _data,
    "add": _add,
    "replace": _replace,
}


def _count(hnet: hl.HyperNetwork) -> float:
    return float(hnet.target_buffers.get_buffer("n"))


@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", WRITES)
def test_every_condition_counts(name: str, around: Any) -> None:
    module, x = target(WRITES[name], Counts), inputs()
    hnet, singles = made(module), made(module)
    with around():
        for runs in (3, 6):
            wanted = torch.stack([singles(x[i], condition=i) for i in IDS])
            torch.testing.assert_close(hnet(x, condition=IDS), wanted)
            assert _count(hnet) == _count(singles) == runs


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("name", WRITES)
def test_in_graphs_too(name: str, batch: bool) -> None:
    torch._dynamo.reset()
    module, x = target(WRITES[name], Counts), inputs()
    hnet, singles = made(module), made(module)
    compiled = torch.compile(hnet, backend="eager")
    for runs in (1, 2, 3):
        if batch:
            wanted = torch.stack([singles(x[i], condition=i) for i in IDS])
            ours = compiled(x, condition=torch.tensor(IDS))
        else:
            wanted, ours = singles(x[0], condition=0), compiled(x[0], condition=torch.tensor(0))
        torch.testing.assert_close(ours, wanted)
        assert _count(hnet) == runs * (3 if batch else 1)


# ---- outputs that are no tensors ----------------------------------------------------------------


def _returns(self: Any, x: Tensor) -> tuple[Tensor, float, str]:
    y = self.layer(x)
    return y, float(y.detach().sum()), "name"


def test_values_that_differ_are_in_the_order_and_the_shape_of_the_batch() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

    hnet = made(target(_returns, Layer))
    torch.manual_seed(0)
    x, ids = torch.randn(5, 2, 4, dtype=torch.float64), [0, 1, 2, 3, 1]
    y, sums, name = hnet(x, condition=ids)
    assert name == "name"
    assert sums == pytest.approx([float(part.detach().sum()) for part in y])
    for size in (1, 2, 3):  # also where the last part is smaller
        hnet.execution = hl.Execution(max_memory=size * hnet.plan.output_bytes(1, 8))
        again = hnet(x, condition=ids)
        torch.testing.assert_close(again[0], y)
        assert again[1:] == (pytest.approx(sums), "name")
    hnet.execution = hl.Execution()
    y, sums, name = hnet(x[:4].reshape(2, 2, 2, 4), condition=torch.tensor([[0, 1], [2, 3]]))
    assert sums == [[float(part.detach().sum()) for part in row] for row in y]
    assert name == "name"


def test_sizes_and_packed_sequences_are_inputs_like_others() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, size: torch.Size) -> Tensor:
            return self.layer(x).reshape(size)

    x = inputs()
    hnet = made(Sized().double())
    y = hnet(x, torch.Size((8,)), condition=IDS)
    torch.testing.assert_close(hnet(x[1], torch.Size((8,)), condition=1), y[1])
    recurrent = made(nn.LSTM(3, 4).double())
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(5, 2, 3).double(), [5, 3])
    ours, _ = recurrent(packed, condition=0)
    torch.testing.assert_close(ours.data, recurrent.instantiate(0)(packed)[0].data)
