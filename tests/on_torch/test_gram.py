"""The output regulariser without outputs: the same penalty and gradients, to more digits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hyperloom.torch as hl
from hyperloom._core.backend.regularizer import Rows, rows_that_count
from hyperloom._core.choices.layouts import Head, Piece, Source

LAYOUTS: dict[str, Any] = {
    "full": hl.Full(),
    "chunked": hl.Chunked(25),
    "chunked per condition": hl.Chunked(25, per_condition=True),
    "one chunk": hl.Chunked(1000),
    "layers": hl.Grouped(unit=hl.Layers()),
    "tiles": hl.Grouped(unit=hl.Tiles(9)),
    "mix": {"0.*": hl.Chunked(10), "2.*": hl.PerCondition(), "3.*": hl.Full()},
}


def target() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 9), nn.ReLU(), nn.LayerNorm(9), nn.Linear(9, 9), nn.Linear(9, 4)
    ).double()


def penalty(
    hnet: hl.HyperNetwork, reg: hl.OutputRegularizer, step: float
) -> tuple[torch.Tensor, ...]:
    """Remember, move every parameter, and return the penalty with its gradients."""
    torch.manual_seed(1)
    before = {name: value.clone() for name, value in hnet.state_dict().items()}
    reg.remember(hnet, range(4))
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter.add_(step * torch.randn_like(parameter))
    value = reg(hnet)
    parameters = list(hnet.parameters())
    found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    hnet.load_state_dict(before)
    return (value.detach(), *found)


@pytest.mark.parametrize("subset", [None, 2])
@pytest.mark.parametrize("weights", [None, {"*.bias": 0.3, "3.*": 2.0}], ids=["alike", "weighted"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gram_equals_outputs(
    layout: str, weights: Any, subset: int | None, take: Callable[..., None]
) -> None:
    hnet = hl.HyperNetwork(
        target(), condition=hl.Embedding(5, 8), trunk=hl.MLP(4), layout=LAYOUTS[layout]
    )
    found = []
    for gram in (True, False):
        take("gram" if gram else "outputs", "penalties")
        reg = hl.OutputRegularizer(0.7, weights=weights, subset=subset)
        found.append(penalty(hnet, reg, 0.1))
        assert (len(reg.memories) > 0) is gram
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_no_change_is_exactly_zero(take: Callable[..., None]) -> None:
    take("gram", "penalties")
    hnet = hl.HyperNetwork(
        target(), condition=hl.Embedding(5, 8), trunk=hl.MLP(4), layout=hl.Chunked(25)
    )
    reg = hl.OutputRegularizer(1.0)
    reg.remember(hnet, range(3))
    assert float(reg(hnet).detach()) == 0.0


def test_tensor_weights_and_factored_forms_take_the_outputs(
    take: Callable[..., None],
) -> None:
    take("gram", "penalties")
    mask = torch.rand(9, 6, dtype=torch.float64)
    plain = hl.HyperNetwork(target(), condition=hl.Embedding(5, 8))
    reg = hl.OutputRegularizer(1.0, weights={"0.weight": mask})
    reg.remember(plain, range(2))
    assert not len(reg.memories)
    low = hl.HyperNetwork(target(), condition=hl.Embedding(5, 8), form={"0.weight": hl.LoRA(2)})
    reg = hl.OutputRegularizer(1.0)
    reg.remember(low, range(2))
    assert not len(reg.memories)


def test_small_changes_keep_their_digits(take: Callable[..., None]) -> None:
    """In float32, differences of outputs lose the digits that Gram matrices keep."""
    torch.manual_seed(0)
    hnet = hl.HyperNetwork(
        target().float(), condition=hl.Embedding(5, 8), layout=hl.Chunked(25, embedding=4)
    )
    wide = copy.deepcopy(hnet).double()
    regs = {}
    for name, model, gram in (
        ("gram", hnet, True),
        ("outputs", hnet, False),
        ("exact", wide, False),
    ):
        take("gram" if gram else "outputs", "penalties")
        regs[name] = hl.OutputRegularizer(1.0)
        regs[name].remember(model, range(4))
    with torch.no_grad():
        for small, large in zip(hnet.parameters(), wide.parameters(), strict=True):
            small.add_(1e-5 * torch.randn_like(small))
            large.copy_(small.double())
    truth = float(regs["exact"](wide).detach())
    gram, outputs = (
        abs(float(regs[name](hnet).detach()) - truth) / truth for name in ("gram", "outputs")
    )
    assert gram < 1e-5
    assert gram < 0.1 * outputs


def test_rows_cover_each_number_once() -> None:
    head = Head("h", Source.FEATURES, 3, 10, 26, 4, False, False, False, ())
    pieces = [(Piece(0, 0, (13,), (1,)), 1.0), (Piece(0, 13, (13,), (1,)), 4.0)]
    counted = np.zeros(30)
    for rows in rows_that_count(head, pieces):
        assert isinstance(rows, Rows)
        for start, stop in rows.ranges:
            for slot, factor in enumerate(rows.factors):
                counted[slot * 10 + start : slot * 10 + stop] += factor
    assert counted.tolist() == [1.0] * 13 + [4.0] * 13 + [0.0] * 4
