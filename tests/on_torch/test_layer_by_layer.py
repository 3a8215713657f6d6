"""Networks that are generated stage by stage from a support set, in PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests._support.compare import close


class Extract(nn.Module):
    """Tokens of a stage: a map of its own of the activations, and the labels' embeddings."""

    def __init__(self, widths: dict[str, int]) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Linear(n, 4) for name, n in widths.items()})
        self.labels = nn.Embedding(3, 4)
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    def forward(self, name: str, activations: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        self.seen.append((name, tuple(activations.shape)))
        assert inputs.shape[-1] == 5
        return torch.cat([self.maps[name](activations), self.labels(labels)], -1)


def stage(*layers: nn.Module, **choices: Any) -> hl.HyperNetwork:
    usual: dict[str, Any] = {
        "condition": hl.Context(8),
        "trunk": hl.Transformer(8, 1, 2),
        "layout": hl.Grouped(4, hl.Tiles(4)),
    }
    return hl.HyperNetwork(nn.Sequential(*layers), **{**usual, **choices})


def made() -> hl.LayerByLayer:
    torch.manual_seed(0)
    stages = {
        "first": stage(nn.Linear(5, 6), nn.ReLU()),
        "second": stage(nn.Linear(6, 6), nn.ReLU(), layout={"0.weight": hl.Chunked(9, 4)}),
        "last": stage(nn.Linear(6, 3)),
    }
    return hl.LayerByLayer(stages, Extract({"first": 5, "second": 6, "last": 6}))


SUPPORT = (
    torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)),
    torch.arange(14).reshape(2, 7) % 3,
)
QUERIES = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(1))


def by_hand(whole: hl.LayerByLayer, images: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """One episode, a layer after the other, with the generated tensors."""
    extract: Any = whole.extract
    x, y = images, queries
    for name in ("first", "second", "last"):
        hnet: Any = whole.stages[name]
        tokens = torch.cat([extract.maps[name](x), extract.labels(labels)], -1)
        weights = {**dict(hnet.kept.tensors()), **hnet.generate(tokens)}
        bias = weights["0.bias"]
        x, y = (v @ weights["0.weight"].mT + bias for v in (x, y))
        if name != "last":
            x, y = x.relu(), y.relu()
    return y


def test_each_stage_sees_what_those_before_it_make_of_the_support() -> None:
    whole = made()
    y = whole(QUERIES, condition=SUPPORT)
    extract: Any = whole.extract
    assert extract.seen == [("first", (2, 7, 5)), ("second", (2, 7, 6)), ("last", (2, 7, 6))]
    net = whole.bind(SUPPORT)
    close(net(QUERIES), y, 1e-6)
    for i in range(2):
        one = tuple(part[i] for part in SUPPORT)
        close(whole(QUERIES[i], condition=one), y[i], 1e-5)
        close(whole.instantiate(one)(QUERIES[i]), y[i], 1e-5)
        close(by_hand(whole, one[0], one[1], QUERIES[i]), y[i], 1e-5)
    generated = whole.generate(SUPPORT)
    assert list(generated) == [
        "first.0.weight",
        "first.0.bias",
        "second.0.weight",
        "last.0.weight",
        "last.0.bias",
    ]
    assert generated["first.0.weight"].shape == (2, 6, 5)


def test_gradients_reach_what_reads_the_support_and_a_state_dict_holds_it() -> None:
    whole = made()
    whole(QUERIES, condition=SUPPORT).square().sum().backward()
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None, name
    again = made()
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load_state_dict(whole.state_dict())
    close(again(QUERIES, condition=SUPPORT), whole(QUERIES, condition=SUPPORT), 0.0)
    assert "Context(8)" in str(whole)


WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: hl.LayerByLayer({}, print), ValueError, "stages: got none; wanted at least one hyper"),
    (
        lambda: hl.LayerByLayer({"a.b": stage(nn.Linear(2, 2))}, print),
        ValueError,
        "stages: got 'a.b'; wanted names without dots.",
    ),
    (
        lambda: hl.LayerByLayer({"a": nn.Linear(2, 2)}, print),  # type: ignore[dict-item]
        TypeError,
        "stages['a']: got a Linear; wanted a HyperNetwork.",
    ),
    (
        lambda: hl.LayerByLayer({"a": stage(nn.Linear(2, 2))}, 3),  # type: ignore[arg-type]
        TypeError,
        "extract: got 3; wanted a function (name, activations, *support) -> condition.",
    ),
    (
        lambda: made().bind(()),
        ValueError,
        "condition: got an empty tuple; wanted the support's inputs, or a tuple with them first.",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG, ids=[text[:40] for *_, text in WRONG])
def test_wrong_values_are_named(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(text)
