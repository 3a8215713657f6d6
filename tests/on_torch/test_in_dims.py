"""`in_dims` by place, by keyword, and by the keys of an input that is a dict."""

from __future__ import annotations

import dataclasses
from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl


class Mixer(nn.Module):
    """`f(x) * scale + shift`, where `x` and `shift` may come in one dict."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Any, shift: Any = 0.0, *, scale: Any = 1.0) -> Tensor:
        if isinstance(x, dict):
            x, shift = x["x"], x["shift"]
        return self.linear(x) * scale + shift


IDS = torch.tensor([0, 2, 1])


@pytest.mark.parametrize(
    ("shared", "in_dims"),
    [
        ("shift", {1: None}),
        ("scale", {"scale": None}),
        ("x", {0: None, 1: 0, "scale": 0}),
        ("shift", ({"x": 0, "shift": None},)),
        ("x", ({"x": None, "shift": 0},)),
    ],
)
def test_a_batch_is_its_rows(shared: str, in_dims: Any) -> None:
    torch.manual_seed(0)
    hnet = hl.HyperNetwork(Mixer(), condition=hl.Embedding(3, 2))
    given = {
        "x": torch.randn(3, 5, 3),
        "shift": torch.randn(3, 5, 2),
        "scale": torch.randn(3, 1, 1),
    }
    given[shared] = given[shared][0]

    def call(values: dict[str, Tensor], condition: Tensor, **options: Any) -> Tensor:
        if isinstance(in_dims, tuple):
            pair = {name: values[name] for name in ("x", "shift")}
            return hnet(pair, condition=condition, **options)
        x, shift, scale = values["x"], values["shift"], values["scale"]
        return hnet(x, shift, scale=scale, condition=condition, **options)

    rows = [
        call({n: v if n == shared else v[i] for n, v in given.items()}, IDS[i]) for i in range(3)
    ]
    torch.testing.assert_close(call(given, IDS, in_dims=in_dims), torch.stack(rows))


# ---- what cannot be cut is not given whole to every condition ------------------------------------


@dataclasses.dataclass
class Graph:
    """A container that nobody knows."""

    nodes: Tensor
    name: str = "graph"


class Slotted:
    """Another, without a dict."""

    __slots__ = ("parts",)

    def __init__(self, parts: Any) -> None:
        self.parts = parts


class Of(nn.Module):
    """A target that takes any object."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, value: Any) -> Tensor:
        if isinstance(value, Slotted):
            value = value.parts[0]["x"]
        nodes = value.nodes if isinstance(value, Graph) else value
        nodes = nodes["x"] if isinstance(nodes, UserDict) else nodes
        return self.layer(torch.as_tensor(nodes))


X = torch.randn(2, 5, 3)
OBJECTS: dict[str, tuple[Any, str]] = {
    "slots": (Slotted([{"x": X}]), "input 0: got a Slotted with tensors in it"),
    "mapping": (UserDict({"x": X}), "input 0: got a UserDict with tensors in it"),
    "NumPy": (X.numpy(), "input 0: got .*array.*torch.as_tensor"),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_with_tensors_are_refused_unless_they_are_shared(kind: str) -> None:
    value, text = OBJECTS[kind]
    hnet = hl.HyperNetwork(Of(), condition=hl.Embedding(3, 4))
    for execution in (hl.Execution(), hl.Execution(strategy="loop")):
        hnet.execution = execution
        with pytest.raises(TypeError, match=text):
            hnet(value, condition=[0, 2])
    one = torch.stack([hnet(value, condition=i) for i in (0, 2)])  # one condition takes anything
    for dims in (None, {0: None}):
        torch.testing.assert_close(hnet(value, condition=[0, 2], in_dims=dims), one)
