"""Layers on rows of different conditions: each row as under its condition's weights alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hyperloom.torch._rules.rows.following import following, mark
from hyperloom.torch._rules.rows.standin import Meeting, RowWise, Uses
from hyperloom.torch._weights.factored import LowRankWeight, ScaledWeight, ShiftedWeight
from hyperloom.torch._weights.rows import Rows
from hyperloom.torch._weights.sums import SumWeight
from hyperloom.torch._weights.weights import Dense, Weight

NUM = 3
ROWS = {
    "blocks": torch.tensor([0, 0, 1, 1, 2, 2]),
    "ragged": torch.tensor([0, 1, 1, 1, 2, 2]),
    "mixed, one absent": torch.tensor([2, 2, 0, 2, 0, 0]),
}


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


def _dense(name: str, shape: torch.Size) -> Weight:
    return Dense(name, shape, NUM, _random(NUM, *shape))


def _sum(name: str, shape: torch.Size) -> Weight:
    return SumWeight(name, shape, NUM, _random(NUM, 2), _random(shape.numel(), 2), _random(*shape))


def _low_rank(name: str, shape: torch.Size) -> Weight:
    u, v = _random(NUM, shape[0], 2), _random(NUM, 2, shape[1:].numel())
    return LowRankWeight(name, shape, NUM, u, v, 1.5, _random(*shape))


def _scaled(name: str, shape: torch.Size) -> Weight:
    return ScaledWeight(
        name, shape, NUM, _random(*shape), _random(NUM, shape[0]), _random(NUM, shape[1])
    )


def _shifted(name: str, shape: torch.Size) -> Weight:
    if len(shape) > 2:
        return _dense(name, shape)
    return ShiftedWeight(name, shape, NUM, _random(*shape), _random(NUM, shape[0]))


FORMS = {"dense": _dense, "sum": _sum, "low rank": _low_rank, "scaled": _scaled, "shift": _shifted}


class Function(nn.Module):
    """A module whose forward is a function of itself and its inputs."""

    def __init__(self, forward: Callable[..., Any], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(*shape)))
        self.function = forward

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


class Positions(nn.Module):
    """Positions looked up by an index that all rows share, as long as it happens to be."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(9, 4), nn.Embedding(12, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.tokens(ids) + self.places(torch.arange(ids.shape[1]))


class Class(nn.Module):
    """A token in front of the others, and places for all, as in a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.places = nn.Parameter(torch.randn(1, 4, 4))
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.layer(x + self.places)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.layer = kind(4, 3, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def floats(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(6, *shape, dtype=torch.float64),)


def ids(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randint(0, 9, (6, *shape)),)


def _batch_norm() -> nn.Module:
    made = nn.BatchNorm2d(4).eval()
    made.running_mean = torch.randn(4)
    made.running_var = torch.rand(4) + 0.5
    return made


MATRIX = {"w": (4, 5), "b": (5,)}
TURNED = {"w": (5, 4), "b": (5,)}
LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "linear": (lambda: nn.Linear(4, 5), floats(4)),
    "linear, three axes": (lambda: nn.Linear(4, 5), floats(3, 4)),
    "linear, flattened": (
        lambda: Function(lambda m, x: F.linear(x.flatten(0, 1), m.w, m.b), **TURNED),
        floats(3, 4),
    ),
    "matmul": (lambda: Function(lambda m, x: x @ m.w + m.b, **MATRIX), floats(3, 4)),
    "matmul turned": (lambda: Function(lambda m, x: x @ m.w.t() + m.b, **TURNED), floats(3, 4)),
    "matmul of T": (lambda: Function(lambda m, x: torch.matmul(x, m.w.T), w=(5, 4)), floats(4)),
    "matrix first": (lambda: Function(lambda m, x: m.w @ x, w=(5, 4)), floats(4, 3)),
    "vector": (lambda: Function(lambda m, x: x @ m.w, w=(4,)), floats(3, 4)),
    "heads": (lambda: Function(lambda m, x: x @ m.w, w=(2, 4, 5)), floats(2, 3, 4)),
    "addmm, flattened": (
        lambda: Function(lambda m, x: torch.addmm(m.b, x.view(-1, 4), m.w), **MATRIX),
        floats(3, 4),
    ),
    "einsum": (
        lambda: Function(lambda m, x: torch.einsum("bti,io->bto", x, m.w), w=(4, 5)),
        floats(3, 4),
    ),
    "einsum turned": (
        lambda: Function(lambda m, x: torch.einsum("bi,oi->bo", x, m.w), w=(5, 4)),
        floats(4),
    ),
    "einsum of heads": (
        lambda: Function(lambda m, x: torch.einsum("bti,ihd->bhtd", x, m.w), w=(4, 2, 3)),
        floats(3, 4),
    ),
    "bilinear": (lambda: Bilinear(), floats(4)),
    "embedding": (lambda: nn.Embedding(9, 4), ids(3)),
    "embedding with padding": (lambda: nn.Embedding(9, 4, padding_idx=2), ids(3)),
    "embedding of few": (lambda: nn.Embedding(50, 4), ids()),
    "positions": (Positions, ids(6)),
    "class token": (Class, floats(3, 4)),
    "layer norm": (lambda: nn.LayerNorm(4), floats(3, 4)),
    "rms norm": (lambda: nn.RMSNorm(4), floats(3, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), floats(4, 5)),
    "instance norm": (lambda: nn.InstanceNorm1d(4, affine=True), floats(4, 5)),
    "batch norm": (_batch_norm, floats(4, 2, 3)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), floats(4, 5)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2), floats(4, 6, 5)),
    "conv2d same": (lambda: nn.Conv2d(4, 4, 3, padding="same", bias=False), floats(4, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, 2, groups=2), floats(4, 3, 3)),
    "scale and shift": (lambda: Function(lambda m, x: m.s * x - m.b, s=(4,), b=(4,)), floats(3, 4)),
    "in place": (
        lambda: Function(lambda m, x: x.clone().mul_(m.s).add_(m.s), s=(4,)),
        floats(3, 4),
    ),
    "written": (lambda: Function(_written, s=(4,)), floats(3, 4)),
    "prelu": (lambda: nn.PReLU(4), floats(4, 5)),
    "prelu of one": (lambda: nn.PReLU(), floats(4, 5)),
    "weight norm": (
        lambda: Function(
            lambda m, x: F.linear(x, m.g * F.normalize(m.w, dim=1)), w=(5, 4), g=(5, 1)
        ),
        floats(4),
    ),
    "gram": (lambda: Function(lambda m, x: x @ (m.w @ m.w.mT), w=(4, 4)), floats(3, 4)),
    "parts of a matrix": (
        lambda: Function(lambda m, x: F.linear(x, m.w.chunk(2)[1], m.b[2:]), w=(6, 4), b=(5,)),
        floats(4),
    ),
    "attention": (lambda: Attention(), floats(3, 4)),
    "attention of two": (lambda: Attention(kdim=3, vdim=3), floats(3, 4)),
    "lstm": (lambda: Recurrent(nn.LSTM, batch_first=True, num_layers=2), floats(5, 4)),
    "gru": (lambda: Recurrent(nn.GRU, batch_first=True, bidirectional=True), floats(5, 4)),
}


def _written(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = m.s
    return y


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x[..., :2])


class Attention(nn.Module):
    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(4, 2, batch_first=True, **sizes)

    def forward(self, x: Tensor) -> Tensor:
        other = x[..., : self.layer.kdim]
        return self.layer(x, other, other if other.shape[-1] < 4 else x, need_weights=False)[0]


def weights_of(target: nn.Module, form: str) -> dict[str, Weight]:
    return {
        name: (FORMS[form] if value.ndim >= 2 else _dense)(name, value.shape)
        for name, value in target.named_parameters()
    }


def stand_ins(weights: dict[str, Weight], meeting: Meeting) -> dict[str, Tensor]:
    return {
        name: RowWise.of(lambda w=w: w, w.shape, torch.float64, name, meeting)
        for name, w in weights.items()
    }


def on_rows(target: nn.Module, weights: dict[str, Weight], index: Tensor, inputs: Any) -> Any:
    """Run on all rows, following them first."""
    meeting = Meeting(Rows.of(NUM, index), Uses(), torch.device("cpu"))
    given = tuple(x.clone() for x in inputs)
    for x in given:
        mark(x)
    with following(meeting):
        functional_call(target, stand_ins(weights, meeting), given)
    return functional_call(target, stand_ins(weights, meeting), inputs)


def one_by_one(target: nn.Module, weights: dict[str, Weight], index: Tensor, inputs: Any) -> Tensor:
    made, places = [], []
    for i in range(NUM):
        rows = (index == i).nonzero().squeeze(-1)
        if len(rows):
            own = {name: w.dense()[i] for name, w in weights.items()}
            y = functional_call(target, own, tuple(x[rows] for x in inputs))
            made.append(y.unflatten(0, (len(rows), -1)))
            places.append(rows)
    found = torch.cat(made)
    return found[torch.cat(places).argsort()].flatten(0, 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_rows_are_as_one_by_one(layer: str, form: str) -> None:
    for rows in ROWS:
        _rows_are_as_one_by_one(layer, form, rows)


def _rows_are_as_one_by_one(layer: str, form: str, rows: str) -> None:
    make, inputs = LAYERS[layer]
    target, given = make().double(), inputs()
    weights, index = weights_of(target, form), ROWS[rows]
    owned = [t for w in weights.values() for t in w.owned]
    found = []
    for run in (on_rows, one_by_one):
        y = run(target, weights, index, given)
        loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
        grads = torch.autograd.grad(loss, owned, allow_unused=True, materialize_grads=True)
        found.append((y.flatten(), *(g.flatten() for g in grads)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
