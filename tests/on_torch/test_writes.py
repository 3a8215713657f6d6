"""A target that writes into its weights: what it writes holds for one condition and one call.

The user's module, learned rows, conditions and given tensors are never written.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import hyperloom.torch as hl
from tests.on_torch.silent import IDS, close_and_some, gradients, inputs, made, target


def clips(module: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        module.layer.weight.clamp_(-0.1, 0.1)
    return module.layer(x) @ module.matrix


def through_data(module: Any, x: Tensor) -> Tensor:
    module.layer.weight.data.clamp_(-0.1, 0.1)
    return module.layer(x) @ module.matrix


def other_data(module: Any, x: Tensor) -> Tensor:
    module.layer.weight.data = module.layer.weight.data.clamp(-0.1, 0.1)
    return module.layer(x) @ module.matrix


def by_its_input(module: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        module.layer.weight[0] = x.mean(0)
    return module.layer(x) @ module.matrix


def adds_up(module: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        module.layer.weight.add_(1.0)
    return module.layer(x) @ module.matrix


def out(module: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        torch.mul(module.layer.weight, 2.0, out=module.layer.weight)
    return module.layer(x) @ module.matrix


def with_gradient(module: Any, x: Tensor) -> Tensor:
    module.layer.weight.mul_(2.0)
    return module.layer(x) @ module.matrix


class Renormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.matrix = nn.Embedding(5, 4, max_norm=0.5), nn.Parameter(torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(torch.tensor([1, 2])) + x) @ self.matrix


FORWARDS = [clips, through_data, other_data, by_its_input, adds_up, out, with_gradient]
LAYOUTS: dict[str, Callable[[], Any]] = {
    "kept": lambda: {"matrix": hl.Full()},
    "shared": lambda: {"matrix": hl.Full(), "*": hl.Shared()},
    "by id": hl.PerCondition,
    "generated": hl.Full,
    "chunked": lambda: hl.Chunked(10, embedding=3),
}


def of(forward: Any) -> nn.Module:
    return Renormed().double() if forward is Renormed else target(forward)


def definition(hnet: hl.HyperNetwork, module: nn.Module, x: Tensor) -> Tensor:
    """Run copies of the module, each with one condition's tensors, one after the other."""
    params, outputs = hnet.generate(IDS), []
    for i in range(len(IDS)):
        one = copy.deepcopy(module)
        own = {name: p.detach().clone() for name, p in one.named_parameters()}
        own.update((name, value[i].clone()) for name, value in params.items())
        outputs.append(functional_call(one, own, (x[i].clone(),)))
    return torch.stack(outputs)


def snapshot(hnet: hl.HyperNetwork, module: nn.Module) -> list[Tensor]:
    tensors = [*module.state_dict().values(), *hnet.state_dict().values()]
    return [t.detach().clone() for t in tensors]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("forward", [*FORWARDS, Renormed])
@pytest.mark.filterwarnings("ignore:target. it writes into its tensor")
@pytest.mark.filterwarnings("ignore::hyperloom.torch.SlowWarning")
def test_writes_hold_for_one_condition_and_one_call(forward: Any, layout: str) -> None:
    module, x = of(forward), inputs()
    for strategy in ("auto", "loop"):
        hnet = made(module, layout=LAYOUTS[layout]())
        hnet.execution = hl.Execution(strategy=strategy)
        before, wanted = snapshot(hnet, module), definition(hnet, module, x)
        for _ in range(2):
            y = hnet(x.clone(), condition=IDS)
            torch.testing.assert_close(y, wanted)
            theirs = gradients(hnet, definition(hnet, module, x))
            close_and_some(gradients(hnet, y), theirs)
            for mode in (torch.no_grad, torch.inference_mode):
                with mode():
                    torch.testing.assert_close(hnet(x.clone(), condition=IDS), wanted)
                    torch.testing.assert_close(hnet(x[0].clone(), condition=0), wanted[0])
        assert all(map(torch.equal, before, snapshot(hnet, module)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("forward", [clips, other_data, adds_up, Renormed])
@pytest.mark.filterwarnings("ignore:target. it writes into its tensor")
@pytest.mark.filterwarnings("ignore::hyperloom.torch.SlowWarning")
def test_a_bound_network_writes_into_tensors_of_its_own(forward: Any, layout: str) -> None:
    module, x = of(forward), inputs()
    hnet = made(module, layout=LAYOUTS[layout]())
    before = snapshot(hnet, module)
    with torch.no_grad():
        plain = hnet.instantiate(1)
        net = hnet.bind(1)
        for _ in range(3):  # like a network that is held: what it has written, it finds again
            torch.testing.assert_close(net(x[1].clone()), plain(x[1].clone()))
        many = hnet.bind(IDS)
        for _ in range(2):
            torch.testing.assert_close(many(x.clone()), definition(hnet, module, x))
    assert all(map(torch.equal, before, snapshot(hnet, module)))


@pytest.mark.filterwarnings("ignore::hyperloom.torch.SlowWarning")
def test_a_condition_and_given_tensors_are_not_written() -> None:
    module = target(clips)
    size = sum(p.numel() for p in module.parameters())
    hnet = hl.HyperNetwork(module, condition=hl.Vector(size), layout=hl.Direct(size))
    vector, x = torch.randn(3, size, dtype=torch.float64), inputs()
    before = vector.clone()
    with torch.no_grad():
        hnet(x, condition=vector)
        hnet(x[0], condition=vector[0])
        hnet.bind(vector[0])(x[0])
        params = hnet.generate(vector)
        copies = {name: value.clone() for name, value in params.items()}
        hnet.run(params, x)
        hnet.run({name: value[0] for name, value in params.items()}, x[0])
    assert torch.equal(vector, before)
    assert all(torch.equal(params[name], copies[name]) for name in params)


def test_that_a_kept_tensor_is_written_is_said_once() -> None:
    module = target(clips)
    hnet = made(module, layout={"matrix": hl.Full()})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hnet(inputs()[0], condition=0)
        hnet(inputs(), condition=IDS)
    assert [str(w.message) for w in caught] == [
        "target: it writes into its tensor 'layer.weight', which is kept: every call, and every "
        "condition, writes into a copy of its own, and what is written is gone after the call. "
        "What is to last belongs in a buffer."
    ]


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.filterwarnings("ignore:target. it writes into its tensor")
@pytest.mark.filterwarnings("ignore::hyperloom.torch.SlowWarning")
def test_a_write_that_comes_late_is_an_error_and_no_secret(batch: bool) -> None:
    calls = 0

    def later(module: Any, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return clips(module, x) if calls > 20 else module.layer(x) @ module.matrix

    module = target(later)
    hnet = made(module, layout={"matrix": hl.Full()})
    x, condition = (inputs(), IDS) if batch else (inputs()[0], 0)

    def many() -> None:
        for _ in range(21):
            hnet(x, condition=condition)

    with pytest.raises(RuntimeError, match=r"target: got a write into its tensor 'layer\.weight'"):
        many()
    before = snapshot(hnet, module)
    hnet(x, condition=condition)
    assert all(map(torch.equal, before, snapshot(hnet, module)))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.filterwarnings("ignore:target. it writes into its tensor")
def test_in_a_graph(first: bool) -> None:
    module = target(clips)
    hnet = made(module, layout={"matrix": hl.Full()})
    before, x, condition = snapshot(hnet, module), inputs(), torch.tensor(IDS)
    if first:
        hnet(x, condition=condition)
    torch._dynamo.reset()
    with torch.no_grad():
        ours = torch.compile(hnet, backend="aot_eager")(x, condition=condition)
    torch.testing.assert_close(ours, definition(hnet, module, x))
    assert all(map(torch.equal, before, snapshot(hnet, module)))


def test_a_target_that_writes_nothing_is_given_the_tensors_themselves() -> None:
    seen: list[int] = []

    def looks(module: Any, x: Tensor) -> Tensor:
        seen.append(module.layer.weight.data_ptr())
        y = x.clone()
        y.mul_(2.0)
        return module.layer(y) @ module.matrix

    module: Any = target(looks)
    hnet = made(module, layout={"matrix": hl.Full()})
    for _ in range(2):
        hnet(inputs()[0], condition=0)
    assert set(seen) == {module.layer.weight.data_ptr()}
