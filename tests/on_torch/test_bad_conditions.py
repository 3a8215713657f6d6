"""Bad conditions: refused by class and by text, with nothing changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests.on_torch.builders import X, make_shallow, shallow
from tests.on_torch.snapshots import refused

IDS = "wanted an int id, a list of ints or an integer tensor, each in 0 .. 2."
TO_LONG = "For a vector as condition use Vector(dim); otherwise call .long()."
GROW = "Add new ids with add_conditions(num)."


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3, IndexError, f"condition: got the id 3; {IDS} {GROW}"),
        (-1, IndexError, f"condition: got the id -1; {IDS} {GROW}"),
        ([0, 3], IndexError, f"condition: got the id 3; {IDS} {GROW}"),
        (range(5), IndexError, f"condition: got the id 4; {IDS} {GROW}"),
        (torch.tensor([2, -1]), IndexError, f"condition: got the id -1; {IDS} {GROW}"),
        (torch.tensor(2**40), IndexError, f"condition: got the id {2**40}; {IDS} {GROW}"),
        (
            torch.tensor([0.0, 1.0]),
            TypeError,
            f"condition: got a torch.float32 tensor of shape (2,); {IDS} {TO_LONG}",
        ),
        (
            torch.tensor([True, False]),
            TypeError,
            f"condition: got a torch.bool tensor of shape (2,); {IDS} {TO_LONG}",
        ),
        (1.0, TypeError, f"condition: got 1.0; {IDS}"),
        (True, TypeError, f"condition: got True; {IDS}"),
        ([0.5], TypeError, f"condition: got [0.5]; {IDS}"),
        ([True, False], TypeError, f"condition: got [True, False]; {IDS}"),
        (["a"], TypeError, f"condition: got ['a']; {IDS}"),
        ([[0], [0, 1]], TypeError, f"condition: got [[0], [0, 1]]; {IDS}"),
        (2**70, TypeError, f"condition: got {2**70}; {IDS}"),
        (None, TypeError, f"condition: got None; {IDS}"),
        (
            np.zeros(3),
            TypeError,
            f"condition: got a float64 NumPy array of shape (3,); {IDS} {TO_LONG}",
        ),
        (
            torch.zeros(2, dtype=torch.int64, device="meta"),
            ValueError,
            "condition: got a torch.int64 tensor of shape (2,) on the meta device, which has no "
            "values; wanted a tensor on cpu, as the hypernetwork.",
        ),
    ],
    ids=lambda v: repr(v)[:24] if not isinstance(v, (type, str)) else "",
)
def test_ids(value: Any, error: type[Exception], text: str) -> None:
    target = shallow()
    for layout in (hl.Full(), hl.PerCondition(), hl.Chunked(5, per_condition=True)):
        hnet = make_shallow(target, layout=layout)
        refused(lambda: hnet.generate(value), error, text, target, hnet)  # noqa: B023 called at once
        refused(lambda: hnet(X, condition=value), error, text, target, hnet)  # noqa: B023
        refused(lambda: hnet.instantiate(value), error, text, target, hnet)  # noqa: B023


VECTOR = "wanted a floating tensor (*batch, 4) for Vector(4)."


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (
            torch.zeros(3),
            ValueError,
            f"condition: got a torch.float32 tensor of shape (3,); {VECTOR}",
        ),
        (
            torch.zeros(2, 5),
            ValueError,
            f"condition: got a torch.float32 tensor of shape (2, 5); {VECTOR}",
        ),
        (
            torch.zeros(()),
            ValueError,
            f"condition: got a torch.float32 tensor of shape (); {VECTOR}",
        ),
        (
            torch.zeros(4, dtype=torch.int64),
            TypeError,
            f"condition: got a torch.int64 tensor of shape (4,); {VECTOR} For ids use Embedding",
        ),
        (
            torch.zeros(4, dtype=torch.complex64),
            TypeError,
            f"condition: got a torch.complex64 tensor of shape (4,); {VECTOR}",
        ),
        ([0.0, 0.0, 0.0, 0.0], TypeError, f"condition: got [0.0, 0.0, 0.0, 0.0]; {VECTOR}"),
        (3, TypeError, f"condition: got 3; {VECTOR}"),
        (None, TypeError, f"condition: got None; {VECTOR}"),
        (
            torch.zeros(4, device="meta"),
            ValueError,
            "condition: got a torch.float32 tensor of shape (4,) on the meta device, which has no",
        ),
    ],
    ids=range(9),
)
def test_vectors(value: Any, error: type[Exception], text: str) -> None:
    target = shallow()
    hnet = make_shallow(target, condition=hl.Vector(4))
    refused(lambda: hnet.generate(value), error, text, target, hnet)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-1, ValueError, "condition: got -1; wanted an int of at least 1."),
        (0, ValueError, "condition: got 0; wanted an int of at least 1."),
        (
            True,
            TypeError,
            "condition: got True; wanted a floating tensor (*batch, 4) for Noise(4).",
        ),
        (2.0, TypeError, "condition: got 2.0; wanted a floating tensor (*batch, 4) for Noise(4)."),
        (torch.zeros(3), ValueError, "condition: got a torch.float32 tensor of shape (3,); wanted"),
    ],
    ids=range(5),
)
def test_noise(value: Any, error: type[Exception], text: str) -> None:
    hnet = make_shallow(condition=hl.Noise(4))
    refused(lambda: hnet.generate(value), error, text, hnet)


CONCAT = "wanted a tuple of 2 values, one for each part of Concat."


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1, TypeError, f"condition: got 1; {CONCAT}"),
        ((1,), TypeError, f"condition: got (1,); {CONCAT}"),
        ((0, 1, 2), TypeError, f"condition: got (0, 1, 2); {CONCAT}"),
        (
            torch.zeros(2, 4),
            TypeError,
            "condition: got a torch.float32 tensor of shape (2, 4); wan",
        ),
        (
            ([0, 1], torch.zeros(3, 4)),
            ValueError,
            "condition: got parts of Concat with batches (2,) and (3,); wanted parts of one batch.",
        ),
        (([0, 3], torch.zeros(2, 4)), IndexError, f"condition: got the id 3; {IDS}"),
        (
            (0, torch.zeros(5)),
            ValueError,
            "condition: got a torch.float32 tensor of shape (5,); want",
        ),
        (
            (torch.zeros(4), 0),
            TypeError,
            "condition: got a torch.float32 tensor of shape (4,); want",
        ),
    ],
    ids=range(8),
)
def test_concat(value: Any, error: type[Exception], text: str) -> None:
    hnet = make_shallow(condition=hl.Concat(hl.Embedding(3, 2), hl.Vector(4)))
    refused(lambda: hnet.generate(value), error, text, hnet)


class Wrong(nn.Module):
    """A module that says one width and returns another."""

    dim = 4

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_modules_that_do_not_keep_their_word() -> None:
    hnet = make_shallow(condition=Wrong())
    text = (
        "condition module Wrong: got a torch.float32 tensor of shape (3,); wanted a tensor (*batc"
    )
    refused(lambda: hnet.generate(torch.zeros(3)), ValueError, text, hnet)
    target = shallow()
    text = "trunk module Wrong: got a tensor of shape (3, 5); wanted shape (3, 4)."
    refused(lambda: make_shallow(target, trunk=Wrong()), ValueError, text, target)
