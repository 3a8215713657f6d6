"""`in_dims` by place, by keyword, and by the keys of an input that is a dict."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, defaultdict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

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


def test_a_number_is_for_all_conditions() -> None:
    torch.manual_seed(0)
    hnet, x = hl.HyperNetwork(Mixer(), condition=hl.Embedding(3, 2)), torch.randn(3, 5, 3)
    shift, scale = torch.tensor(0.5), torch.tensor(2.0)
    rows = [hnet(x[i], shift, scale=scale, condition=IDS[i]) for i in range(3)]
    for value in (scale, 2.0):
        torch.testing.assert_close(hnet(x, shift, scale=value, condition=IDS), torch.stack(rows))
    both = hnet(x.expand(2, 3, 5, 3), shift, scale=scale, condition=IDS.expand(2, 3))
    torch.testing.assert_close(both, torch.stack(rows).expand(2, 3, 5, 2))


# ---- objects and arrays --------------------------------------------------------------------------


class Slotted:
    """A container that nobody knows, without a dict."""

    __slots__ = ("parts",)

    def __init__(self, parts: Any) -> None:
        self.parts = parts


class Own(dict[str, Any]):
    """A dict of a class of its own, with an attribute."""

    name = ""


class Batch(UserDict[str, Any]):
    """As a tokeniser returns it."""

    def __init__(self, data: dict[str, Any], offset: int) -> None:
        super().__init__(data)
        self.offset = offset


@dataclasses.dataclass
class Output(OrderedDict[str, Any]):
    """As transformers' models return it: a dict, a dataclass, and attributes."""

    x: Any = None
    more: Any = None

    def __post_init__(self) -> None:
        if self.x is not None:
            self["x"] = self.x

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)


class Of(nn.Module):
    """A target that takes any object, and returns one of its class with the output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, value: Any) -> Any:
        if isinstance(value, Slotted):
            return self.layer(value.parts[0]["x"])
        if isinstance(value, np.ndarray):
            assert value.shape[-1:] == (3,)
            return self.layer(torch.from_numpy(value))
        if isinstance(value, Own):
            assert value.name == "own"
        y = self.layer(torch.as_tensor(value.x if isinstance(value, Output) else value["x"]))
        if isinstance(value, Batch):
            return Batch({"x": y + value.offset}, 7)
        return Output(x=y) if isinstance(value, Output) else y


def _own(x: Any) -> Own:
    made = Own(x=x)
    made.name = "own"
    return made


KINDS: dict[str, Any] = {
    "NumPy": lambda x: x.numpy(),
    "NumPy in a dict": lambda x: {"x": x.numpy()},
    "UserDict": lambda x: UserDict({"x": x}),
    "UserDict of its own": lambda x: Batch({"x": x}, 2),
    "mapping": lambda x: MappingProxyType({"x": x}),
    "defaultdict": lambda x: defaultdict(list, x=x),
    "dict of its own": _own,
    "output": lambda x: Output(x=x),
}


@pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")
@pytest.mark.parametrize("strategy", ["auto", "loop", "max_memory", "twice"])
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_and_mappings_are_paired(kind: str, strategy: Any) -> None:
    torch.manual_seed(0)
    hnet, wrap = hl.HyperNetwork(Of(), condition=hl.Embedding(4, 2)), KINDS[kind]
    x, ids = torch.randn(4, 5, 3), torch.tensor([2, 0, 1, 3])
    rows = [hnet(wrap(x[i]), condition=ids[i]) for i in range(4)]
    if strategy == "max_memory":
        hnet.execution = hl.Execution(max_memory=2 * hnet.plan.output_bytes(1, 4))
    elif strategy == "loop":
        hnet.execution = hl.Execution(strategy="loop")
    y = hnet(wrap(x), condition=ids)
    if strategy == "twice":
        both = hnet(wrap(x.reshape(2, 2, 5, 3)), condition=ids.reshape(2, 2))
        y, x = (
            (tree_map(lambda t: t.flatten(0, 1), both), x) if isinstance(both, Tensor) else (y, x)
        )
    assert type(y) is type(rows[0])
    if not isinstance(y, Tensor):
        assert {**vars(y), "data": 0, "x": 0} == {**vars(rows[0]), "data": 0, "x": 0}
        y, rows = y["x"], [row["x"] for row in rows]
    torch.testing.assert_close(y, torch.stack(rows))
    torch.testing.assert_close(
        _x(hnet(wrap(x.movedim(0, 1)), condition=ids, in_dims=1)), torch.stack(rows)
    )
    shared = [_x(hnet(wrap(x[0]), condition=i)) for i in ids]
    torch.testing.assert_close(
        _x(hnet(wrap(x[0]), condition=ids, in_dims=None)), torch.stack(shared)
    )


def _x(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else value["x"]


@pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")
def test_what_does_not_pair_is_named() -> None:
    hnet, x = hl.HyperNetwork(Of(), condition=hl.Embedding(4, 2)), torch.randn(2, 5, 3)
    beside = r"got shape \(2, 5, 3\) beside conditions \(3,\)"
    for value, name in ((UserDict(x=x), r"input 0\['x'\]"), (x.numpy(), "input 0")):
        with pytest.raises(ValueError, match=f"^{name}: {beside}"):
            hnet(value, condition=[0, 1, 2])
    both = UserDict(x=x, y=x[0])
    y = hnet(both, condition=[0, 2], in_dims=({"x": 0, "y": None},))
    torch.testing.assert_close(y, torch.stack([hnet({"x": x[i]}, condition=2 * i) for i in (0, 1)]))
    with pytest.raises(ValueError, match=r"in_dims: got no entry for 'y' in those for input 0"):
        hnet(both, condition=[0, 2], in_dims=({"x": 0},))
    with pytest.raises(
        TypeError, match=r"input 0: got .*array.*; wanted tensors, with rows=. Conv"
    ):
        hnet(x.numpy(), condition=[0, 1], rows=[0, 1])


class Named(nn.Linear):
    """A layer that is told what things are called."""

    def forward(self, x: Tensor, names: Any) -> Tensor:  # type: ignore[override]
        return super().forward(x) * len(names[0])


def test_a_list_with_a_value_for_each_condition_is_refused_unless_it_is_shared() -> None:
    hnet, x = hl.HyperNetwork(Named(3, 2), condition=hl.Embedding(3, 4)), torch.randn(2, 5, 3)
    for values in (["a", "bc"], [b"a", b"b"]):
        text = "^input 1: got a list of 2 values, as many as conditions; wanted a tensor with a"
        with pytest.raises(TypeError, match=text):
            hnet(x, values, condition=[0, 2])
        one = torch.stack([hnet(x[i], values, condition=2 * i) for i in (0, 1)])
        for ours in (
            hnet(x, values, condition=[0, 2], in_dims=(0, None)),
            hnet(x, tuple(values), condition=[0, 2]),
            hnet(x, [*values, ""], condition=[0, 2]),
        ):
            torch.testing.assert_close(ours, one)


def test_objects_with_tensors_are_refused_unless_they_are_shared() -> None:
    x = torch.randn(2, 5, 3)
    value = Slotted([{"x": x}])
    hnet = hl.HyperNetwork(Of(), condition=hl.Embedding(3, 4))
    for execution in (hl.Execution(), hl.Execution(strategy="loop")):
        hnet.execution = execution
        with pytest.raises(TypeError, match="input 0: got a Slotted with tensors in it"):
            hnet(value, condition=[0, 2])
    one = torch.stack([hnet(value, condition=i) for i in (0, 2)])  # one condition takes anything
    for dims in (None, {0: None}):
        torch.testing.assert_close(hnet(value, condition=[0, 2], in_dims=dims), one)
