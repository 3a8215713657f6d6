"""`hnet.factors()`: low-rank changes as their factors, in every layout of the target's tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import hyperloom.torch as hl
from tests._support.on_torch import hypernetwork, shaken

IDS = torch.tensor([3, 0, 3, 1])
X = torch.randint(0, 6, (4, 2, 5))


class Net(nn.Module):
    """Tensors with the outputs first, behind the inputs, and between."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.conv = nn.Conv1d(4, 3, 2)
        self.up = nn.ConvTranspose1d(3, 4, 2)
        self.last = nn.Linear(4, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids).mT
        return self.last(self.up(self.conv(x).tanh()).mT)


def factored(form: Any, layout: Any = None) -> hl.HyperNetwork:
    layout = {"*.weight": hl.Full()} if layout is None else layout
    choices: dict[str, Any] = {"condition": hl.Embedding(5, 4), "layout": layout, "form": form}
    return shaken(hypernetwork(lambda: Net().double(), **choices))


FORMS = [hl.LoRA(2, alpha=3.0), hl.LoRA(3, rslora=True, trained=True), hl.LowRank(2)]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_factors_make_the_tensor(form: Any) -> None:
    hnet = factored(form)
    factors, tensors = hnet.factors(IDS), hnet.generate(IDS)
    assert set(factors) == set(tensors)
    bases = dict(hnet.bases.tensors())
    for name, (a, b, scaling) in factors.items():
        assert factors[name].rank == form.rank
        assert factors[name].batch == (4,)
        assert scaling == getattr(form, "factor", 1.0)
        tensor = tensors[name]
        base = bases[name] if name in bases else torch.zeros_like(tensor[0])
        change = scaling * b @ a
        # Embeddings and transposed kernels have their inputs first.
        change = change.mT if name in ("table.weight", "up.weight") else change
        torch.testing.assert_close(base + change.reshape(tensor.shape), tensor)
    one = hnet.factors(3)
    for name, value in one.items():
        torch.testing.assert_close(value.a, factors[name].a[0])


def test_the_orientation_is_that_of_peft() -> None:
    factors = factored(hl.LoRA(2)).factors(IDS)
    assert factors["last.weight"].a.shape == (4, 2, 4)
    assert factors["last.weight"].b.shape == (4, 5, 2)
    assert factors["table.weight"].a.shape == (4, 2, 6)
    assert factors["table.weight"].b.shape == (4, 4, 2)
    assert factors["conv.weight"].a.shape == (4, 2, 8)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_target_runs_with_given_factors(form: Any) -> None:
    hnet = factored(form)
    y = hnet(X, condition=IDS)
    torch.testing.assert_close(hnet.run(hnet.factors(IDS), X), y)
    torch.testing.assert_close(hnet.run(hnet.factors(3), X[0]), y[0])
    nested = hnet.factors(IDS.view(2, 2))
    torch.testing.assert_close(hnet.run(nested, X.view(2, 2, 2, 5)).flatten(0, 1), y)


def test_factors_may_change_tensors_that_nothing_generates() -> None:
    hnet = factored(hl.LoRA(2), {"last.weight": hl.Full()})
    given = factored(hl.LoRA(2))
    torch.testing.assert_close(hnet.run(given.factors(IDS), X), given(X, condition=IDS))


def test_gradients_of_losses_on_factors() -> None:
    hnet = factored(hl.LoRA(2))
    a, b, _ = hnet.factors(IDS)["last.weight"]
    loss = a.abs().sum() + (b * b).sum()
    loss.backward()
    weight = dict(hnet.named_parameters())["heads.full.weight"]
    assert weight.grad is not None
    assert bool(weight.grad.any())
    grads = [
        torch.autograd.grad(y.square().sum(), list(hnet.parameters()), allow_unused=True)
        for y in (hnet(X, condition=IDS), hnet.run(hnet.factors(IDS), X))
    ]
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_a_mixture_gives_what_has_factors() -> None:
    hnet = factored({"last.weight": hl.LoRA(2), "last.bias": hl.Delta()}, {"last.*": hl.Full()})
    factors = hnet.factors(IDS)
    assert set(factors) == {"last.weight"}
    y = hnet.run({**hnet.generate(IDS), **factors}, X)
    torch.testing.assert_close(y, hnet(X, condition=IDS))


# ---- sums ---------------------------------------------------------------------------------------


def test_a_batch_is_summed_by_rank() -> None:
    hnet = factored(hl.LoRA(2, alpha=3.0))
    numbers = torch.tensor([[1.0, 0.5], [0.0, -2.0]], dtype=torch.float64)
    factors = hnet.factors(IDS.view(2, 2))
    for weights in (None, numbers):
        summed = hl.concatenate(factors, weights)
        for name, (a, b, scaling) in summed.items():
            assert summed[name].rank == 4
            assert summed[name].batch == (2,)
            each = factors[name].b @ factors[name].a
            each = each if weights is None else each * weights[..., None, None]
            torch.testing.assert_close(b @ a, each.sum(1))
            assert scaling == 1.5


def test_a_list_is_summed_and_ranks_may_differ() -> None:
    first, second = factored(hl.LoRA(2, alpha=3.0)).factors(IDS), factored(hl.LoRA(3)).factors(IDS)
    summed = hl.concatenate([first, second], [0.5, -1.0])
    for name, (a, b, scaling) in summed.items():
        assert summed[name].rank == 5
        wanted = 0.75 * first[name].b @ first[name].a - second[name].b @ second[name].a
        torch.testing.assert_close(scaling * b @ a, wanted)


FACTORS = factored(hl.LoRA(2)).factors(IDS)
ONE = factored(hl.LoRA(2)).factors(0)
LAST, LAST_OF_ONE = ({"last.weight": f["last.weight"]} for f in (FACTORS, ONE))
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no factors": (
        lambda: factored(hl.Delta()).factors(IDS),
        ValueError,
        "form: got Delta(); wanted a form with factors, such as LoRA, for one tensor at least.",
    ),
    "one condition": (
        lambda: hl.concatenate(ONE),
        ValueError,
        "factors: got factors of one condition for 'table.weight'; wanted factors of a batch",
    ),
    "a tensor": (
        lambda: hl.concatenate({"last.weight": torch.ones(3)}),  # type: ignore[dict-item]
        TypeError,
        "factors['last.weight']: got a torch.float32 tensor of shape (3,); wanted Factors.",
    ),
    "a number": (
        lambda: hl.concatenate(3),  # type: ignore[arg-type]
        TypeError,
        "factors: got 3; wanted factors by name",
    ),
    "other names": (
        lambda: hl.concatenate([FACTORS, LAST]),
        ValueError,
        "factors: got 'conv.weight' in one of factors[0] and factors[1] only",
    ),
    "other batches": (
        lambda: hl.concatenate([LAST, LAST_OF_ONE]),
        ValueError,
        "factors: got a (4, 2, 4), b (4, 5, 2) and a (2, 4), b (5, 2) for 'last.weight'; wanted",
    ),
    "weights of another shape": (
        lambda: hl.concatenate(FACTORS, torch.ones(3)),
        ValueError,
        "weights: got a torch.float32 tensor of shape (3,); wanted an array of shape (4,)",
    ),
    "too few weights": (
        lambda: hl.concatenate([FACTORS, FACTORS], [1.0]),
        ValueError,
        "weights: got [1.0]; wanted a list of 2 numbers",
    ),
    "factors of another tensor": (
        lambda: factored(hl.LoRA(2)).run(FACTORS | {"last.weight": FACTORS["conv.weight"]}, X),
        ValueError,
        "params['last.weight']: got factors a (4, 2, 8) and b (4, 3, 2); wanted a (*batch",
    ),
    "two batches": (
        lambda: factored(hl.LoRA(2)).run(FACTORS | LAST_OF_ONE, X),
        ValueError,
        "params['last.weight']: got factors of conditions () beside others of (4,); wanted one",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    call, kind, text = REFUSED[name]
    with pytest.raises(kind, match=re.escape(text)):
        call()
