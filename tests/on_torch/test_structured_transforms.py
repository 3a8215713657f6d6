"""Transforms, autocast, compile, memory bounds: layers from parts behave like dense ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

import hyperloom.torch as hl
from hyperloom._core.plan.cost import Layer
from hyperloom.torch._target.placeholder import Placeholder
from tests.on_torch.test_structured import (
    CASES,
    FORMS,
    WAYS,
    Custom,
    Tied,
    forms_for,
    jiggle,
)

Take = Callable[[str], None]


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 4))


TARGETS: dict[str, Any] = {"chain": chain, "custom": Custom}


def made(target: str, form: str, dtype: torch.dtype = torch.float64) -> hl.HyperNetwork:
    module = TARGETS[target]().to(dtype)
    hnet = hl.HyperNetwork(module, condition=hl.Vector(3), form=forms_for(module, FORMS[form]))
    jiggle(hnet)
    return hnet


def loop(hnet: hl.HyperNetwork, x: Tensor, conditions: Tensor) -> Tensor:
    return torch.stack([hnet(a, condition=c) for a, c in zip(x, conditions, strict=True)])


@pytest.mark.parametrize(("form", "way"), CASES)
@pytest.mark.parametrize("target", TARGETS)
def test_transforms_equal_the_loop(target: str, form: str, way: str, take: Take) -> None:
    take(way)
    hnet = made(target, form)
    x, c = torch.randn(3, 5, 6).double(), torch.randn(3, 3).double()

    def batched(c: Tensor) -> Tensor:
        return hnet(x, condition=c)

    def looped(c: Tensor) -> Tensor:
        return loop(hnet, x, c)

    v = torch.randn_like(c)
    pairs = [
        (grad(lambda c: batched(c).square().sum())(c), grad(lambda c: looped(c).square().sum())(c)),
        (jacrev(batched)(c), jacrev(looped)(c)),
        (jvp(batched, (c,), (v,)), jvp(looped, (c,), (v,))),
        (vmap(batched)(torch.stack([c, v])), torch.stack([looped(c), looped(v)])),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("form", "way"), CASES)
@pytest.mark.parametrize("target", TARGETS)
def test_single_precision(target: str, form: str, way: str, take: Take) -> None:
    take(way)
    hnet = made(target, form, torch.float32)
    x, c = torch.randn(4, 5, 6), torch.randn(4, 3)
    parameters = list(hnet.parameters())
    ours, theirs = hnet(x, condition=c), loop(hnet, x, c)
    pairs = [(ours, theirs)]
    for y in (ours, theirs):
        found = torch.autograd.grad(y.square().sum(), parameters, allow_unused=True)
        pairs.append(tuple(torch.zeros(()) if g is None else g for g in found))  # type: ignore[arg-type]
    _, mine, other = pairs
    for a, b in [(ours, theirs), *zip(mine, other, strict=True)]:
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("form", "way"), CASES)
@pytest.mark.parametrize("target", TARGETS)
def test_autocast_returns_the_plain_dtype(
    target: str, form: str, dtype: torch.dtype, way: str, take: Take
) -> None:
    take(way)
    hnet = made(target, form, torch.float32)
    x, c = torch.randn(3, 5, 6), torch.randn(3, 3)
    with torch.autocast("cpu", dtype=dtype):
        ours = hnet(x, condition=c)
        plain = hnet.instantiate(c[0])(x[0])
    assert ours.dtype == plain.dtype
    torch.testing.assert_close(ours.float(), loop(hnet, x, c), rtol=0.1, atol=0.15)
    ours.float().sum().backward()


@pytest.mark.parametrize(
    ("target", "form", "way"),
    [
        ("chain", "whole", "inputs"),
        ("custom", "whole", "outputs"),
        ("custom", "low rank", ""),
        ("custom", "scale", ""),
    ],
)
def test_compiled_in_one_graph(target: str, form: str, way: str, take: Take) -> None:
    take(way)
    hnet = made(target, form)
    x, c = torch.randn(3, 5, 6).double(), torch.randn(3, 3).double()
    compiled = torch.compile(lambda x, c: hnet(x, condition=c), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, c), hnet(x, condition=c), rtol=1e-10, atol=1e-10)
    torch._dynamo.reset()


@pytest.mark.parametrize("way", WAYS)
def test_writes_into_a_weight_are_seen_by_later_layers(way: str, take: Take) -> None:
    take(way)

    class Writer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            before = nn.functional.linear(x, self.weight)
            self.weight.mul_(2.0)
            return before + nn.functional.linear(x, self.weight)

    hnet = hl.HyperNetwork(Writer().double(), condition=hl.Vector(3))
    x, c = torch.randn(2, 5, 6).double(), torch.randn(2, 3).double()
    with torch.no_grad():
        torch.testing.assert_close(hnet(x, condition=c), loop(hnet, x, c), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_bounded_memory_changes_nothing(target: str, recompute: bool) -> None:
    hnet = made(target, "whole")
    x, c = torch.randn(7, 5, 6).double(), torch.randn(7, 3).double()

    def run() -> list[Tensor]:
        y = hnet(x, condition=c)
        return [y, *torch.autograd.grad(y.square().sum(), list(hnet.parameters()))]

    plain = run()
    two_at_once = 2 * hnet.plan.output_bytes(1, 8)
    hnet.execution = hl.Execution(max_memory=two_at_once, recompute=recompute)
    for a, b in zip(run(), plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_bounded_memory_is_bounded() -> None:
    hnet = made("custom", "whole")
    seen: list[int] = []
    hnet.trunks[0].register_forward_hook(lambda _, inputs, output: seen.append(len(output)))
    hnet.execution = hl.Execution(max_memory=3 * hnet.plan.output_bytes(1, 8))
    hnet(torch.randn(8, 5, 6).double(), condition=torch.randn(8, 3).double())
    assert seen == [3, 3, 2]


@pytest.mark.parametrize("layout", [hl.Full(), hl.Chunked(20), hl.PerCondition()])
def test_rows_that_share_conditions_generate_them_once(
    layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hnet = hl.HyperNetwork(
        chain().double(), condition=hl.Embedding(50, 3), trunk=hl.MLP(5), layout=layout
    )
    jiggle(hnet)
    ids = torch.tensor([7, 7, 3, 7, 3, 3, 7])
    x = torch.randn(7, 5, 6).double()
    rows: list[int] = []
    trunk = hnet.trunks[0] if len(hnet.trunks) else None
    if trunk is not None:
        trunk.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    ours = hnet(x, condition=ids)
    assert not rows or rows == [2]
    theirs = loop(hnet, x, ids)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    parameters = list(hnet.parameters())
    a = torch.autograd.grad(
        ours.square().sum(), parameters, materialize_grads=True, allow_unused=True
    )
    b = torch.autograd.grad(
        theirs.square().sum(), parameters, materialize_grads=True, allow_unused=True
    )
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_dropout_in_the_trunk_is_drawn_for_every_row() -> None:
    hnet = hl.HyperNetwork(
        nn.Linear(2, 2), condition=hl.Embedding(2, 3), trunk=hl.MLP(16, dropout=0.5)
    )
    y = hnet(torch.ones(8, 1, 2), condition=torch.zeros(8, dtype=torch.long))
    assert len(torch.unique(y[:, 0, 0])) > 1


def test_explain_names_what_was_chosen_and_why() -> None:
    target = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256))
    hnet = hl.HyperNetwork(target, condition=hl.Vector(16))
    one_row = hnet.explain(torch.randn(512, 1, 64), condition=torch.randn(512, 16))
    assert one_row.strategy == "chain"
    assert one_row["2.weight"].choice in ("inputs", "outputs")
    assert one_row["2.weight"].layer == Layer(512, 1, 16, 256, 256, 256, True, True)
    assert {e.choice for e in one_row["2.weight"].estimates} == {"dense", "inputs", "outputs"}
    assert "faster than the next" in repr(one_row)
    many_rows = hnet.explain(torch.randn(8, 256, 64), condition=torch.randn(8, 16))
    assert many_rows["2.weight"].choice == "dense"
    assert many_rows["0.bias"].why == "a vector: no larger than its parts"
    single = hnet.explain(torch.randn(3, 64), condition=torch.randn(16))
    assert single.strategy == "single"
    assert single["0.weight"].why == "one condition: formed once"
    tied = hl.HyperNetwork(Tied(), condition=hl.Vector(16), layout=hl.Chunked(40))
    shown = tied.explain(torch.zeros(2, 3, dtype=torch.long), condition=torch.randn(2, 16))
    assert shown.strategy == "vmap"
    assert "chunks" in shown["table.weight"].why
    low = hl.HyperNetwork(target, condition=hl.Vector(4), form={"*.weight": hl.LoRA(2)})
    assert low.explain(torch.randn(4, 1, 64), condition=torch.randn(4, 4))["0.weight"].choice == (
        "factors"
    )
    with pytest.raises(KeyError, match="tensor: got 'nothing'; wanted a generated tensor"):
        single["nothing"]


@pytest.mark.parametrize("way", WAYS)
def test_stand_ins_leave_no_trace_in_the_skeleton(way: str, take: Take) -> None:
    take(way)
    hnet = made("custom", "whole")
    x, c = torch.randn(3, 5, 6).double(), torch.randn(3, 3).double()
    hnet(x, condition=c)
    kinds = {type(p) for p in hnet._runner.skeleton.module.parameters()}
    assert kinds == {Placeholder}
    params = hnet.generate(c[0])
    net = hnet.instantiate(c[0])
    torch.testing.assert_close(functional_call(net, params, (x[0],)), net(x[0]))
