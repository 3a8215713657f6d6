"""Generated tensors that are first read under `no_grad`, or inside autocast.

What is kept of them must not depend on the mode in which they were read first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import hyperloom.torch as hl
from tests.on_torch.silent import (
    IDS,
    assert_exact,
    close_and_some,
    gradients,
    inputs,
    loop,
    made,
    target,
)

FORMS: dict[str, Any] = {
    "whole": hl.Whole(),
    "lora": hl.LoRA(1),
    "low-rank": hl.LowRank(1),
    "scale": hl.Scale(),
    "shift": hl.Shift(),
    "rank-one": hl.RankOne(),
    "templates": hl.Templates(2),
}


def _under(context: Callable[[], Any]) -> Callable[[Any, Tensor], Tensor]:
    def forward(self: Any, x: Tensor) -> Tensor:
        with context():
            size = self.layer.weight.abs().max()
        return self.layer(x) / size.detach().clone() @ self.layer.weight

    return forward


READS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "no-grad": _under(torch.no_grad),
    "inference": _under(torch.inference_mode),
    "autocast": _under(lambda: torch.autocast("cpu", dtype=torch.bfloat16)),
    "detached": lambda self, x: self.layer(x) / self.layer.weight.detach().norm(),
    "data": lambda self, x: self.layer(x) / self.layer.weight.data.norm() @ self.layer.weight,
}


@pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", READS)
def test_what_is_read_first_in_another_mode(name: str, form: str) -> None:
    chosen: dict[str, Any] = {
        "layout": {"layer.weight": hl.Full()},
        "form": {"layer.weight": FORMS[form]},
    }
    assert_exact(target(READS[name]), **chosen)


def test_a_head_gets_its_gradient_at_sizes_where_parts_are_cheaper() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 256)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                scale = self.layer.weight.abs().max()
            return self.layer(x) / scale

    hnet = hl.HyperNetwork(Normed(), condition=hl.Vector(16))
    hnet(torch.randn(128, 1, 64), condition=torch.randn(128, 16)).square().sum().backward()
    gradient = hnet.heads["full"].weight.grad  # type: ignore[union-attr]
    assert bool(gradient[: 64 * 256].any())  # type: ignore[index]


@pytest.mark.parametrize("form", ["whole", "lora", "rank-one", "templates"])
def test_embeddings_keep_their_precision_under_autocast(form: str) -> None:
    module = nn.Sequential(nn.Embedding(50, 8), nn.Tanh()).double().float()
    hnet = made(module, layout={"0.weight": hl.Full()}, form={"0.weight": FORMS[form]})
    ids = torch.randint(0, 50, (3, 4))
    weights = hnet.generate(IDS)["0.weight"]
    wanted = torch.stack([w[i] for w, i in zip(weights, ids, strict=True)]).tanh()
    for rows in (ids, ids[:, :1]):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = hnet(rows, condition=IDS)
        assert y.dtype == torch.float32
        # The head itself runs in half precision, as any layer of the hypernetwork does there.
        torch.testing.assert_close(y, wanted[:, : rows.shape[1]], atol=0.05, rtol=0.05)


class Parametrized(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.tanh()


def test_cached_parametrizations_belong_to_one_condition() -> None:
    module: Any = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    parametrize.register_parametrization(module[0], "weight", Parametrized())
    hnet, x = made(module), inputs()
    wanted = loop(hnet, module, x)
    with parametrize.cached():
        first = hnet(x[0], condition=0)
        second = hnet(x[1], condition=1)
        batch = hnet(x, condition=IDS)
        plain = module(x[0])  # the user's own cache is left alone
        with torch.no_grad():
            module[0].parametrizations.weight.original.add_(1.0)
        assert torch.equal(module(x[0]), plain)
    torch.testing.assert_close(torch.stack([first, second]), wanted[:2])
    torch.testing.assert_close(batch, wanted)


def test_a_graph_keeps_the_gradient_too() -> None:
    """`no_grad` around the first use, in one graph."""
    module = target(READS["no-grad"])
    hnet, x = made(module, form={"layer.weight": hl.LoRA(1)}), inputs()
    ids = torch.tensor(IDS)
    compiled = torch.compile(lambda x: hnet(x, condition=ids), backend="aot_eager", fullgraph=True)
    ours = gradients(hnet, compiled(x))
    close_and_some(ours, gradients(hnet, loop(hnet, module, x)))
