"""Programs: calls that are decided once give what the general way gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import hyperloom.torch as hl
from hyperloom._core.plan.cost import forcing
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.run import run_encoded
from tests._support import targets
from tests.on_torch.test_batch_equals_loop import TOLERANCE, close

WAYS = ("dense", "inputs", "outputs")


mlp = partial(targets.mlp, 3, 5, 2)


def made(trunk: Any = None, bias: bool = True, dtype: Any = torch.float64) -> hl.HyperNetwork:
    torch.manual_seed(0)
    return hl.HyperNetwork(mlp(bias=bias), condition=hl.Vector(4), trunk=trunk).to(dtype)


def programs(hnet: hl.HyperNetwork) -> list[Any]:
    found = [way.program for way in hnet._runner.memory.routes.values()]
    return [program for program in found if program is not None]


def generally(hnet: hl.HyperNetwork, x: Tensor, c: Any) -> Tensor:
    encoded = hnet.condition(c)
    call = Call(encoded.batch, (x,), {})
    call.usual = None
    return run_encoded(hnet, hnet._runner, encoded, call)


def both(run: Callable[[], Tensor], wanted: Callable[[], Tensor], leaves: list[Tensor]) -> None:
    for function in (lambda y: y, lambda y: torch.autograd.grad(y.square().sum(), leaves)):
        got, expected = function(run()), function(wanted())
        pairs = [(got, expected)] if isinstance(got, Tensor) else zip(got, expected, strict=True)
        for a, b in pairs:
            close(a, b)


@pytest.mark.parametrize("rows", [(), (1,), (6,), (2, 3)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("way", [*WAYS, "mixed"])
def test_every_way_gives_what_the_general_way_gives(
    way: str, bias: bool, rows: tuple[int, ...]
) -> None:
    order = itertools.cycle(("outputs", "dense"))
    asked = (lambda: next(order)) if way == "mixed" else way
    hnet = made(hl.MLP(7), bias)
    c = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(4, *rows, 3, dtype=torch.float64, requires_grad=True)
    leaves = [c, x, *hnet.parameters()]

    def forced() -> Tensor:
        with forcing(asked):
            return hnet(x, condition=c)

    both(forced, lambda: generally(hnet, x, c), leaves)
    assert len(programs(hnet)) == 1


def test_the_program_is_remembered_for_inputs_like_these() -> None:
    hnet = made()
    x, c = torch.randn(2, 5, 3).double(), torch.randn(2, 4).double()
    for _ in range(3):
        hnet(x, condition=c)
    assert len(programs(hnet)) == 1
    with torch.no_grad():
        hnet(x, condition=c)
    hnet(x[:1], condition=c[:1])
    assert len(programs(hnet)) == 3
    for rows in range(1, 300):
        hnet(x[:, :1].expand(-1, rows, -1), condition=c)
    assert len(programs(hnet)) <= 256


def test_a_converted_hypernetwork_forgets_its_programs() -> None:
    hnet = made(dtype=torch.float32)
    hnet(torch.randn(2, 5, 3), condition=torch.randn(2, 4))
    hnet.double()
    assert programs(hnet) == []
    assert hnet(torch.randn(2, 5, 3).double(), condition=torch.randn(2, 4)).dtype == torch.float64


OTHERS: dict[str, Callable[[], tuple[hl.HyperNetwork, Any]]] = {
    "chunks": lambda: (
        hl.HyperNetwork(mlp(), condition=hl.Vector(4), layout=hl.Chunked(9)),
        torch.randn(2, 4),
    ),
    "delta": lambda: (
        hl.HyperNetwork(mlp(), condition=hl.Vector(4), form=hl.Delta()),
        torch.randn(2, 4),
    ),
    "part of it": lambda: (
        hl.HyperNetwork(mlp(), condition=hl.Vector(4), layout={"0.*": hl.Full()}),
        torch.randn(2, 4),
    ),
    "table": lambda: (
        hl.HyperNetwork(mlp(), condition=hl.Embedding(3, 4), layout=hl.PerCondition()),
        [0, 2],
    ),
    "ids that may be shared": lambda: (
        hl.HyperNetwork(mlp(), condition=hl.Embedding(3, 4)),
        [0, 2],
    ),
    "no chain": lambda: (
        hl.HyperNetwork(nn.Sequential(mlp(), nn.GroupNorm(1, 2)), condition=hl.Vector(4)),
        torch.randn(2, 4),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_goes_the_general_way(name: str) -> None:
    hnet, c = OTHERS[name]()
    y = hnet(torch.randn(2, 5, 3), condition=c)
    assert y.shape == (2, 5, 2)
    assert not programs(hnet)


def test_what_changes_from_call_to_call_is_looked_at_in_every_call() -> None:
    hnet = made(dtype=torch.float32)
    x, c = torch.randn(2, 5, 3), torch.randn(2, 4)
    plain = hnet(x, condition=c)
    seen: list[Any] = []
    handle = hnet.heads["full"].register_forward_hook(lambda *_: seen.append(1))
    close(hnet(x, condition=c), plain, TOLERANCE[torch.float32])
    assert seen == [1]
    handle.remove()
    with torch.autocast("cpu", torch.bfloat16):
        assert hnet(x, condition=c).dtype == torch.bfloat16
    hnet.execution = hl.Execution(max_memory=1)
    close(hnet(x, condition=c), plain, TOLERANCE[torch.float32])
    shared = hnet(x[0], condition=c, in_dims=None)
    close(shared[0], plain[0], TOLERANCE[torch.float32])


def test_parameters_may_be_others_at_every_call() -> None:
    hnet = made()
    x, c = torch.randn(2, 5, 3).double(), torch.randn(2, 4).double()
    hnet(x, condition=c)
    own = {name: 2 * p.detach() for name, p in hnet.named_parameters()}
    y = functional_call(hnet, own, (x,), {"condition": c})
    with torch.no_grad():
        for p in hnet.parameters():
            p.mul_(2)
    close(y, generally(hnet, x, c))


def test_transforms_go_through_a_program() -> None:
    hnet = made(hl.MLP(6))
    x, c = torch.randn(3, 5, 3).double(), torch.randn(3, 4).double()

    def loss(c: Tensor, x: Tensor) -> Tensor:
        return hnet(x.unsqueeze(0), condition=c.unsqueeze(0)).square().sum()

    each = vmap(grad(loss))(c, x)
    for i in range(3):
        close(each[i], grad(loss)(c[i], x[i]))
    assert programs(hnet)
