"""What a call leaves behind in the target: nothing, whatever happens in it."""

from __future__ import annotations

import copy
import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tests.on_torch.modules import (
    Autoencoder,
    Residual,
    Row,
    encoder,
    floats,
    snapshot,
    unchanged,
    weight_norm,
    with_target,
)

# vmap runs some operations one condition after the other, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


class Failing(nn.Module):
    """Raises after its layer has run."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor, fail: bool) -> Tensor:
        y = self.layer(self.norm(x))
        if fail:
            raise LookupError("inside the target")
        return y


@pytest.mark.parametrize("condition", [1, [0, 1, 2]], ids=["one", "batch"])
def test_an_exception_leaves_everything_as_it_was(condition: Any) -> None:
    target, hnet = with_target(Failing)
    before, own = snapshot(target), snapshot(hnet)
    x = floats(5, 4)() if isinstance(condition, list) else floats(5, 4)()[0]
    y = hnet(x, False, condition=condition)
    with pytest.raises(LookupError, match="inside the target"):
        hnet(x, True, condition=condition)
    unchanged(target, before)
    unchanged(hnet, own)
    assert torch.equal(hnet(x, False, condition=condition), y)


# ---- nothing is held after a call ---------------------------------------------------------------


HOLDERS: list[Row] = [
    ("mlp", lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), (floats(5, 4),)),
    ("own-forward", Autoencoder, (floats(5, 4),)),
    ("lstm", lambda: nn.LSTM(4, 3), (floats(5, 2, 4),)),
    ("gru", lambda: nn.GRU(4, 3, bidirectional=True), (floats(5, 2, 4),)),
    ("encoder", encoder(), (floats(2, 5, 4),)),
    ("weight-norm", weight_norm, (floats(5, 4),)),
    (
        "batch-norm",
        lambda: Residual(lambda n: nn.BatchNorm2d(n, track_running_stats=False)),
        (floats(4, 2, 5, 5),),
    ),
]


@pytest.mark.parametrize("batched", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("row", HOLDERS, ids=lambda row: row[0])
def test_nothing_of_a_call_is_held(row: Row, batched: bool) -> None:
    _, make, feeds = row
    _, hnet = with_target(make)
    x = [feed() for feed in feeds]
    made = hnet.generate([0, 1, 2] if batched else 0)
    held = {n: weakref.ref(tensor) for n, tensor in made.items()}
    output = hnet.run(made, *x) if batched else hnet.run(made, *(v[0] for v in x))
    leaf = weakref.ref(tree_leaves(output)[0])
    del made, output
    gc.collect()
    assert leaf() is None
    assert [n for n, ref in held.items() if ref() is not None] == []


def test_a_copy_of_a_hypernetwork_is_one_of_its_own() -> None:
    for make in (lambda: nn.LSTM(4, 3), lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh())):
        _, hnet = with_target(make)
        x = torch.randn(5, 4, dtype=torch.float64)
        y = tree_leaves(hnet(x, condition=1))[0]
        copied = copy.deepcopy(hnet)
        assert torch.equal(tree_leaves(copied(x, condition=1))[0], y)
        with torch.no_grad():
            for parameter in hnet.parameters():
                parameter.zero_()
        assert torch.equal(tree_leaves(copied(x, condition=1))[0], y)


class Waiting(nn.Module):
    """Lets other threads run between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        time.sleep(0.005)
        return self.last(x)


def test_threads_do_not_see_each_others_tensors() -> None:
    _, hnet = with_target(Waiting)
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = [hnet(x, condition=i).detach() for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: hnet(x, condition=i % 4), range(16)))
    for i, y in enumerate(found):
        assert torch.equal(y.detach(), expected[i % 4])
