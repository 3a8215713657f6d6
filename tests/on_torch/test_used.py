"""Only what the target's code uses is generated, with the same results and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl


class Coder(nn.Module):
    """Uses one half or the other, as the method, or the numbers, say."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        self.norm = nn.LayerNorm(3)
        self.decoder = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 6))
        self.caught = 0

    def encode(self, x: Tensor) -> Tensor:
        return self.norm(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def either(self, x: Tensor) -> Tensor:
        return self.encoder(x) if x.sum() > 0 else x[..., :3] + self.norm.bias

    def forgiving(self, x: Tensor) -> Tensor:
        try:
            return self.either(x)
        except Exception:
            return x[..., :3]

    def weights(self, x: Tensor) -> Tensor:
        return self.norm.weight if x.sum() < 0 else self.norm.bias


CHOICES: dict[str, dict[str, Any]] = {
    "full": {"layout": hl.Full()},
    "chunked": {"layout": hl.Chunked(11, embedding=3), "trunk": hl.MLP(8)},
    "chunked by id": {"layout": hl.Chunked(11, embedding=3, per_condition=True)},
    "tiles": {"layout": hl.Grouped(embedding=3, unit=hl.Tiles(smallest=2))},
    "grouped": {"layout": hl.Grouped(embedding=3)},
    "tables": {"layout": hl.PerCondition()},
    "mixed": {"layout": {"*.bias": hl.Shared(), "decoder.*": hl.PerCondition(), "*": hl.Full()}},
    "kept": {"layout": {"*.0.weight": hl.Chunked(7, embedding=2), "norm.*": hl.Full()}},
    "lora": {"form": {"*er.*.weight": hl.LoRA(1)}, "layout": {"*er.*.weight": hl.Full()}},
    "templates": {"form": {"*er.*.weight": hl.Templates(3)}, "layout": hl.Chunked(9, embedding=2)},
    "vector": {"layout": hl.Given(), "condition": None},
}


def hypernetwork(choices: dict[str, Any]) -> hl.HyperNetwork:
    torch.manual_seed(0)
    given: dict[str, Any] = {"condition": hl.Embedding(4, 5), **choices}
    target = Coder()
    if given["condition"] is None:
        given["condition"] = hl.Vector(sum(p.numel() for p in target.parameters()))
    hnet = hl.HyperNetwork(target, **given).double()
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return hnet


def gradients(hnet: hl.HyperNetwork, condition: Tensor, output: Tensor) -> dict[str, Tensor]:
    params: dict[str, Tensor] = dict(hnet.named_parameters())
    if condition.requires_grad:
        params["the condition"] = condition
    found = torch.autograd.grad(output.square().sum(), list(params.values()), allow_unused=True)
    pairs = zip(params.items(), found, strict=True)
    return {name: p.new_zeros(p.shape) if g is None else g for (name, p), g in pairs}


@pytest.mark.parametrize("strategy", ["auto", "loop"])
@pytest.mark.parametrize("single", [False, True], ids=["batch", "one"])
@pytest.mark.parametrize("method", ["encode", "decode"])
@pytest.mark.parametrize("name", CHOICES)
def test_results_and_gradients_are_those_of_all(
    name: str, method: str, single: bool, strategy: str
) -> None:
    hnet = hypernetwork(CHOICES[name])
    hnet.execution = hl.Execution(strategy=strategy)
    x = torch.randn(3, 4, 6 if method == "encode" else 3, dtype=torch.float64)
    condition: Any = torch.tensor([3, 0, 1])
    if name == "vector":
        condition = torch.randn(3, hnet.plan.condition.width, dtype=torch.float64)
    if single:
        x, condition = x[0], condition[0].detach()
    if condition.is_floating_point():
        condition.requires_grad_()
    first = hnet(x, condition=condition, method=method)
    wanted = gradients(hnet, condition, first)
    second = hnet(x, condition=condition, method=method)
    assert torch.allclose(first, second, rtol=0, atol=1e-12)
    for key, found in gradients(hnet, condition, second).items():
        assert torch.allclose(found, wanted[key], rtol=0, atol=1e-12), key
    other = "decoder." if method == "encode" else "encoder."
    unused = {entry.tensor for entry in hnet.plan.entries if entry.tensor.startswith(other)}
    routed = [way for way in hnet._runner.memory.routes.values() if way.part is not None]
    assert routed
    assert all(not unused & set(way.part.plan.rows_by_name) for way in routed if way.part)


@pytest.mark.parametrize("method", ["either", "forgiving"])
def test_a_call_that_uses_more_starts_again(method: str) -> None:
    hnet = hypernetwork({})
    plain: Any = hypernetwork({}).instantiate(2)
    x = torch.ones(4, 6, dtype=torch.float64)
    for value in (-x, -x, x, -x, x):
        found = hnet(value, condition=2, method=method)
        assert torch.equal(found, getattr(plain, method)(value))


def test_a_tensor_that_is_returned_is_one_that_is_used() -> None:
    hnet = hypernetwork({})
    plain: Any = hypernetwork({}).instantiate(2)
    x = torch.ones(4, 6, dtype=torch.float64)
    for value in (x, x, -x, -x, x):
        assert torch.equal(hnet(value, condition=2, method="weights"), plain.weights(value))


def test_explain_names_vectors_that_are_not_used() -> None:
    hnet = hypernetwork({})
    x = torch.randn(3, 4, 3, dtype=torch.float64)
    for _ in range(2):
        told = hnet.explain(x, condition=[0, 1, 2], method="decode")
        unused = {use.tensor for use in told.used if use.choice == "unused"}
        names = {e.tensor for e in hnet.plan.entries}
        assert unused == {name for name in names if not name.startswith("decoder.")}
        hnet(x, condition=[0, 1, 2], method="decode")
