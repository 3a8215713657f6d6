"""Inputs with a part of any number of rows for each condition; rows in parts of bounded memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl

COUNTS = (3, 0, 1, 4)
IDS = [3, 0, 2, 1]


class Net(nn.Module):
    """Two layers, a second input, and a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor, shift: Tensor | float = 0.0) -> dict[str, Any]:
        return {"y": self.last(self.first(x).relu()) + shift, "of": "Net", "b": torch.ones(3)}

    def encode(self, x: Tensor) -> Tensor:
        return self.first(x)

    def meeting(self, x: Tensor) -> Tensor:
        return self.first(x) - self.first(x).mean(0)

    def among(self, x: Tensor) -> Tensor:
        return self.first(x) @ self.first(x).T


def hypernetwork(**options: Any) -> hl.HyperNetwork:
    torch.manual_seed(0)
    return hl.HyperNetwork(Net(), condition=hl.Embedding(5, 4), **options)


def parts(*shape: int) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(count, *shape) for count in COUNTS]


def same(found: Any, wanted: Any) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-6), (a, b)


@pytest.mark.parametrize("strategy", ["auto", "rows", "loop"])
def test_a_list_has_a_part_for_each_condition(strategy: str) -> None:
    hnet = hypernetwork(execution=hl.Execution(strategy=strategy))
    xs, shifts = parts(4), parts(1)
    found: Any = {}
    for _ in range(2):
        found = hnet(xs, shift=shifts, condition=IDS)
        each = [hnet(x, shift=s, condition=i) for x, s, i in zip(xs, shifts, IDS, strict=True)]
        same(found["y"], [one["y"] for one in each])
        same(found["b"], [one["b"] for one in each])
        assert found["of"] == "Net"
    coded = hnet(xs, condition=IDS, method="encode")
    same(coded, [hnet(x, condition=i, method="encode") for x, i in zip(xs, IDS, strict=True)])
    shared = hnet(xs, shift=torch.ones(2), condition=IDS, in_dims={"shift": None})
    same(shared["y"], [one + 1 - s for one, s in zip(found["y"], shifts, strict=True)])


@pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")
@pytest.mark.parametrize("method", ["meeting", "among"])
def test_rows_that_meet_meet_those_of_their_part(method: str) -> None:
    hnet, xs = hypernetwork(), [x for x in parts(4) if len(x)]
    wanted = [hnet(x, condition=i, method=method) for i, x in enumerate(xs)]
    for _ in range(2):
        same(hnet(xs, condition=[0, 1, 2], method=method), wanted)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_a_nested_tensor_gives_a_nested_tensor(layout: torch.layout) -> None:
    hnet, xs = hypernetwork(), [x for x in parts(4) if len(x)]
    nested = torch.nested.nested_tensor(xs, layout=layout)
    found = hnet(nested, condition=[3, 0, 1], method="encode")
    assert found.is_nested
    assert found.layout == layout
    wanted = hnet(xs, condition=[3, 0, 1], method="encode")
    same(found.unbind(), wanted)
    # Where all parts are as long, too: a nested tensor is no list of inputs.
    even = torch.nested.nested_tensor([xs[0], xs[0], xs[0]], layout=layout)
    assert hnet(even, condition=[3, 0, 1], method="encode").is_nested


def test_gradients_reach_parts_and_generator() -> None:
    hnet, xs = hypernetwork(), [x.requires_grad_() for x in parts(4)]

    def gradients(outputs: list[Tensor]) -> tuple[Tensor, ...]:
        loss = torch.cat(outputs).square().sum()
        return torch.autograd.grad(loss, [*xs, *hnet.parameters()], materialize_grads=True)

    found = gradients(hnet(xs, condition=IDS)["y"])
    wanted = gradients([hnet(x, condition=i)["y"] for x, i in zip(xs, IDS, strict=True)])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def test_a_list_of_inputs_stays_one() -> None:
    class Two(nn.Linear):
        def forward(self, xs: list[Tensor]) -> Tensor:  # type: ignore[override]
            return super().forward(xs[0] + xs[1])

    hnet = hl.HyperNetwork(Two(4, 2), condition=hl.Embedding(5, 4))
    assert hnet([torch.ones(2, 3, 4), torch.ones(2, 3, 4)], condition=[0, 1]).shape == (2, 3, 2)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_bad_parts_are_named() -> None:
    hnet, xs, shifts = hypernetwork(), parts(4), parts(1)
    nested = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=torch.jagged)
    counts = r"shift: got parts of \(4, 1, 0, 3\) rows; wanted \(3, 0, 1, 4\), as input 0 has"
    plain = r"shift: got shape \(4, 1\) beside parts of .* pass in_dims={'shift': None}"
    kinds = r"input 0: got parts of .*\(n, 4.* and .*\(n, 5.*; wanted parts that differ in their"
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (nested, {}, "input 0: got 2 parts beside 4 conditions; wanted a part for each condition"),
        (xs, {"shift": shifts[::-1]}, counts),
        (xs, {"shift": torch.ones(4, 1)}, plain),
        (xs, {"in_dims": {0: 1}}, "in_dims: got 1 for input 0; wanted 0 for an input in parts"),
        ([*xs[:3], torch.ones(4, 5)], {}, kinds),
    ]
    for x, options, text in refused:
        with pytest.raises(ValueError, match=text):
            hnet(x, condition=IDS, **options)


@pytest.mark.parametrize("recompute", [False, True])
def test_rows_in_parts_of_bounded_memory(recompute: bool) -> None:
    hnet = hypernetwork()
    torch.manual_seed(2)
    x, rows = torch.randn(14, 4), torch.tensor([1, 0, 3, 3, 1, 0, 3])
    wanted = hnet(x, condition=IDS, rows=rows)
    of_one = hnet.plan.output_bytes()
    hnet.execution = hl.Execution(max_memory=2 * of_one, recompute=recompute)
    for _ in range(2):
        found = hnet(x, condition=IDS, rows=rows)
        same([found["y"]], [wanted["y"]])
        assert found["of"] == "Net"
    hnet.execution = hl.Execution(max_memory=of_one)
    same(
        hnet(parts(4), condition=IDS, method="encode"),
        hypernetwork()(parts(4), condition=IDS, method="encode"),
    )


# ---- bound networks -----------------------------------------------------------------------------


def test_a_bound_network_takes_parts() -> None:
    hnet, xs, shifts = hypernetwork(), parts(4), parts(1)
    net = hnet.bind(IDS)
    wanted = hnet(xs, shift=shifts, condition=IDS)
    for _ in range(2):
        found = net(xs, shift=shifts)
        same(found["y"], wanted["y"])
        same(found["b"], wanted["b"])
        assert found["of"] == "Net"
        same(net.encode(xs[::-1]), hnet(xs[::-1], condition=IDS, method="encode"))
    even = torch.ones(4, 2, 4)
    same(net.encode(even), hnet(even, condition=IDS, method="encode"))


@pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")
@pytest.mark.parametrize("method", ["meeting", "among"])
def test_rows_of_a_bound_network_that_meet_meet_those_of_their_part(method: str) -> None:
    hnet, xs = hypernetwork(), [x for x in parts(4) if len(x)]
    net = hnet.bind([0, 1, 2])
    wanted = [hnet(x, condition=i, method=method) for i, x in enumerate(xs)]
    for _ in range(2):
        same(getattr(net, method)(xs), wanted)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_a_bound_network_takes_nested_tensors(layout: torch.layout) -> None:
    hnet, xs = hypernetwork(), [x for x in parts(4) if len(x)]
    found = hnet.bind([3, 0, 1]).encode(torch.nested.nested_tensor(xs, layout=layout))
    assert found.is_nested
    assert found.layout == layout
    same(found.unbind(), hnet(xs, condition=[3, 0, 1], method="encode"))


def test_parts_of_all_calls_reach_the_generator_of_one_bind() -> None:
    hnet, xs = hypernetwork(), parts(4)

    def gradients(first: Any, second: Any) -> tuple[Tensor, ...]:
        loss = torch.stack([part.square().sum() for part in (*first, *second)]).sum()
        return torch.autograd.grad(loss, list(hnet.parameters()), materialize_grads=True)

    net = hnet.bind(IDS)
    found = gradients(net(xs)["y"], net.encode(xs))
    wanted = gradients(hnet(xs, condition=IDS)["y"], hnet(xs, condition=IDS, method="encode"))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def test_a_bound_network_in_its_own_mode() -> None:
    class Dropped(nn.Sequential):
        pass

    torch.manual_seed(0)
    target = Dropped(nn.Linear(4, 5), nn.Dropout(0.9999))
    net = hl.HyperNetwork(target, condition=hl.Embedding(5, 4)).bind(IDS)
    xs = parts(4)
    assert all((part == 0).all() for part in net.train()(xs))
    assert all((part != 0).any() for part in net.eval()(xs) if len(part))


def test_bad_parts_for_a_bound_network_are_named() -> None:
    hnet, xs = hypernetwork(), parts(4)
    net = hnet.bind(IDS)
    with pytest.raises(ValueError, match=r"shift: got parts of \(4, 1, 0, 3\) rows; wanted \(3"):
        net(xs, shift=parts(1)[::-1])
    with pytest.raises(ValueError, match=r"shift: got shape .* beside parts of"):
        net(xs, shift=torch.ones(4, 1))
    hnet.add_conditions(1)
    with pytest.raises(ValueError, match="net: got a network that was bound before its"):
        net(xs)
