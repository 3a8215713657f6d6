"""Networks as users write them, and training: a batch equals the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests.zoo import checks
from tests.zoo.blocks import BLOCKS
from tests.zoo.checks import IDS, NUM, frozen_copy, hypernetwork, pick, tensors, unchanged

pytestmark = [
    pytest.mark.filterwarnings("ignore::hyperloom._core.choices.execution.SlowWarning"),
    pytest.mark.filterwarnings("ignore:target. .*running statistics"),
]

WHOLE = hl.Chunked(128, embedding=4)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("part", [False, True], ids=["all", "part"])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_batch_equals_the_loop(name: str, part: bool, train: bool) -> None:
    make, inputs, pattern = BLOCKS[name]
    torch.manual_seed(1)
    target = make().double().train(train)
    before = frozen_copy(target)
    layout = {pattern: hl.Full()} if part else WHOLE
    hnet = hypernetwork(target, layout=layout).train(train)
    assert bool(hnet.plan.kept) == part
    checks.batch_equals_loop(hnet, inputs(NUM, dtype=torch.float64))
    unchanged(target, before)


# ---- training stays right -----------------------------------------------------------------------


def loss_of_a_batch(inputs: tuple[Any, ...]) -> Callable[[Any], Tensor]:
    def loss(hnet: Any) -> Tensor:
        found = tensors(hnet(*inputs, condition=list(IDS)))
        return torch.stack([out.square().mean() for out in found]).sum()

    return loss


def loss_of_a_loop(inputs: tuple[Any, ...]) -> Callable[[Any], Tensor]:
    def loss(hnet: Any) -> Tensor:
        made = []
        for i, condition in enumerate(IDS):
            found = tensors(hnet(*pick(inputs, i), condition=condition))
            made.append(torch.stack([out.square().mean() for out in found]).sum())
        return torch.stack(made).mean()

    return loss


def small_lstm() -> nn.Module:
    return nn.LSTM(3, 4)


def small_transformer() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)


def small_cnn() -> nn.Module:
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
    return nn.Sequential(*layers)


TRAINED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lstm": (small_lstm, (5, 2, 3)),
    "transformer": (small_transformer, (2, 5, 4)),
    "cnn": (small_cnn, (4, 3, 8, 8)),
    "siren": (BLOCKS["SIREN"][0], (6, 2)),
    "u-net": (BLOCKS["U-Net (diffusion)"][0], ()),
}


@pytest.mark.parametrize("form", [hl.Whole(), hl.Delta()], ids=str)
@pytest.mark.parametrize("name", TRAINED)
def test_ten_steps_batched_are_ten_steps_of_the_loop(name: str, form: Any) -> None:
    make, shape = TRAINED[name]
    torch.manual_seed(1)
    target = make().double()
    inputs = (torch.randn(NUM, *shape, dtype=torch.float64),)
    if not shape:
        inputs = BLOCKS["U-Net (diffusion)"][1](NUM, dtype=torch.float64)
    made = [hypernetwork(target, trunk=hl.MLP(6), form=form) for _ in range(2)]
    start = [p.detach().clone() for p in made[0].parameters()]
    rate = 1e-4 if name == "siren" else 0.02  # larger steps of a SIREN are chaos
    batched = checks.ten_steps(made[0], loss_of_a_batch(inputs), rate)
    looped = checks.ten_steps(made[1], loss_of_a_loop(inputs), rate)
    names = [name for name, _ in made[0].named_parameters()]
    checks.compare(batched, looped, 1e-9, names)
    moved = [float((a - b).abs().max()) for a, b in zip(start, batched, strict=True)]
    assert min(moved) > 1e-6, dict(zip(names, moved, strict=True))


def test_a_step_that_differs_is_seen() -> None:
    torch.manual_seed(1)
    target = small_cnn().double()
    x = torch.randn(NUM, 4, 3, 8, 8, dtype=torch.float64)
    made = [hypernetwork(target) for _ in range(2)]
    batched = checks.ten_steps(made[0], loss_of_a_batch((x,)))
    looped = checks.ten_steps(made[1], loss_of_a_loop((x.roll(1, 0),)))
    with pytest.raises(AssertionError):
        checks.compare(batched, looped, 1e-9, [str(i) for i in range(len(batched))])
