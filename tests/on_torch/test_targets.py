"""Real modules as targets, unmodified.

For each: one condition equals the plain module that `instantiate` gives, a batch equals a loop in
values and gradients, and the module given is bitwise what it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import hyperloom.torch as hl
from tests._support.on_torch import shaken
from tests.on_torch.modules import (
    NUM,
    TARGETS,
    Outputs,
    Residual,
    Row,
    Structured,
    Writer,
    close_leaves,
    floats,
    gradients,
    orthogonal,
    snapshot,
    unchanged,
    weight_norm,
    with_target,
)

# vmap runs some operations one condition after the other, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

MODES = {"train": (True, hl.Chunked(11, embedding=2)), "eval": (False, hl.Full())}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", TARGETS, ids=lambda row: row[0])
def test_unmodified(row: Row, mode: str) -> None:
    name, make, feeds = row
    training, layout = MODES[mode]
    target, hnet = with_target(make, layout)
    hnet.train(training)
    if name == "writer":
        return  # every call changes its state: see below
    before, own = snapshot(target), snapshot(hnet)
    x, ids = [feed() for feed in feeds], torch.tensor([2, 0, 3])
    each = [hnet(*(v[i] for v in x), condition=ids[i]) for i in range(NUM)]
    for i in range(NUM):
        plain = hnet.instantiate(ids[i])
        assert type(plain) is type(target)
        assert plain.training is training
        with torch.no_grad():
            close_leaves(each[i], plain(*(v[i] for v in x)))
    batched = hnet(*x, condition=ids)
    stacked = tree_map(lambda *leaves: torch.stack(leaves), each[0], *each[1:])
    close_leaves(batched, stacked)
    close_leaves(gradients(batched, hnet), gradients(stacked, hnet))
    unchanged(target, before)
    unchanged(hnet, own)


# ---- what a table cannot hold -------------------------------------------------------------------


def test_inputs_and_outputs_of_any_structure() -> None:
    _, hnet = with_target(Structured)
    x, scale, ids = floats(5, 4)(), floats(2)(), torch.tensor([1, 0, 1])
    y = hnet({"x": x}, scale=scale, power=2, condition=ids)
    assert type(y) is Outputs
    each = [hnet({"x": x[i]}, scale=scale[i], power=2, condition=ids[i]) for i in range(NUM)]
    close_leaves(y, tree_map(lambda *leaves: torch.stack(leaves), each[0], *each[1:]))
    shared = hnet({"x": x[0]}, scale=scale[0], power=2, condition=ids, in_dims=None)
    close_leaves(shared.y[2], hnet({"x": x[0]}, scale=scale[0], power=2, condition=ids[2]).y)


def test_batch_norm_in_training_has_statistics_of_each_condition() -> None:
    target, hnet = with_target(lambda: Residual(nn.BatchNorm2d))
    before = snapshot(target)
    x, ids = floats(4, 2, 5, 5)(), torch.tensor([2, 0, 3])
    y = hnet(x, condition=ids)
    for i in range(NUM):
        plain = hnet.instantiate(ids[i])
        with torch.no_grad():
            close_leaves(y[i], plain(x[i]))
        close_leaves(y[i], hnet(x[i], condition=ids[i]))
    unchanged(target, before)


def test_batch_norm_in_eval_uses_the_targets_own_statistics() -> None:
    norm = nn.BatchNorm1d(3)
    target = nn.Sequential(nn.Linear(4, 3), norm).double()
    target(torch.randn(50, 4, dtype=torch.float64) * 3)
    hnet = shaken(hl.HyperNetwork(target, condition=hl.Embedding(4, 3))).eval()
    x = floats(5, 4)()
    assert norm.running_var is not None
    assert float(norm.running_var[0]) != 1.0
    close_leaves(hnet(x, condition=[0, 1, 2])[1], hnet.instantiate(1)(x[1]).detach())
    assert torch.equal(hnet.instantiate(1).get_buffer("1.running_var"), norm.running_var)


RECURRENT = [
    ("lstm", lambda: nn.LSTM(3, 4, num_layers=2, batch_first=True)),
    ("lstm-projected", lambda: nn.LSTM(3, 4, proj_size=2, bidirectional=True, batch_first=True)),
    ("gru", lambda: nn.GRU(3, 4, batch_first=True)),
    ("rnn", lambda: nn.RNN(3, 4, batch_first=True)),
]


@pytest.mark.parametrize("make", [make for _, make in RECURRENT], ids=[n for n, _ in RECURRENT])
def test_recurrent_targets(make: Callable[[], nn.Module]) -> None:
    target, hnet = with_target(make)
    before = snapshot(target)
    x = floats(2, 5, 3)()
    for i in (0, 2, 0):
        y, state = hnet(x[i], condition=i)
        close_leaves((y, state), tree_map(Tensor.detach, hnet.instantiate(i)(x[i])))
        assert all(g is not None for g in gradients(y, hnet))
    batched, state = hnet(x, condition=[0, 1, 2])
    each = [hnet(x[i], condition=i) for i in range(NUM)]
    close_leaves(
        (batched, state), tree_map(lambda *leaves: torch.stack(leaves), each[0], *each[1:])
    )
    y, _ = hnet(x[1], condition=1)
    close_leaves(y, hnet.instantiate(1)(x[1])[0].detach())
    unchanged(target, before)


CELLS = [
    ("gru-cell", lambda: nn.GRUCell(3, 4)),
    ("rnn-cell", lambda: nn.RNNCell(3, 4)),
    ("lstm-cell", lambda: nn.LSTMCell(3, 4)),
]


@pytest.mark.parametrize("make", [make for _, make in CELLS], ids=[n for n, _ in CELLS])
def test_recurrent_cells(make: Callable[[], nn.Module]) -> None:
    _, hnet = with_target(make)
    x, ids = floats(2, 3)(), torch.tensor([0, 3, 1])
    batched = hnet(x, condition=ids)
    each = [hnet(x[i], condition=ids[i]) for i in range(NUM)]
    stacked = tree_map(lambda *leaves: torch.stack(leaves), each[0], *each[1:])
    close_leaves(batched, stacked)
    close_leaves(gradients(batched, hnet), gradients(stacked, hnet))


def test_dropout_has_a_mask_for_each_condition() -> None:
    for net in (nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5)), Dropping()):
        _, hnet = with_target(lambda net=net: net)
        x = torch.ones(3, 4, dtype=torch.float64)
        zeros = hnet(x, condition=torch.zeros(6, dtype=torch.int64), in_dims=None) == 0
        assert 0.3 < zeros.double().mean() < 0.7
        masks = {tuple(mask.flatten().tolist()) for mask in zeros}
        assert len(masks) == 6
        assert not torch.equal(zeros[0][0], zeros[0][1])
        assert not (hnet.eval()(x, condition=[0, 1, 2], in_dims=None) == 0).any()


class Dropping(nn.Module):
    """Dropout by function, in a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 50)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x), 0.5, self.training)


def test_a_parametrised_target_generates_the_originals() -> None:
    _, hnet = with_target(weight_norm)
    names = [entry.tensor for entry in hnet.plan.entries]
    assert "0.parametrizations.weight.original0" in names
    assert "0.weight" not in names
    plain: Any = hnet.instantiate(1)
    norms = plain[0].weight.norm(dim=1)
    close_leaves(
        norms, hnet.generate(1)["0.parametrizations.weight.original0"].abs().flatten().detach()
    )
    _, hnet = with_target(orthogonal("cayley"))
    plain = hnet.instantiate(2)
    weight = plain.weight
    # Its base was made in float32.
    torch.testing.assert_close(weight @ weight.T, torch.eye(4).double(), rtol=0, atol=1e-6)


class Branching(nn.Module):
    """Control flow that depends on the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y if y.sum() > 0 else -y


def test_control_flow_on_numbers_is_run_in_a_loop() -> None:
    target, hnet = with_target(Branching)
    before, x = snapshot(target), floats(5, 4)()
    close_leaves(hnet(x[0], condition=0), hnet.instantiate(0)(x[0]).detach())
    with pytest.warns(hl.SlowWarning, match="control flow"):
        y = hnet(x, condition=[0, 1, 2])
    close_leaves(y, torch.stack([hnet(x[i], condition=i) for i in range(3)]))
    unchanged(target, before)


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
def test_a_write_into_a_buffer_is_kept(mode: bool) -> None:
    target, hnet = with_target(Writer)
    before, copied, x = snapshot(target), copy.deepcopy(hnet.train(mode)), floats(5, 4)()
    with pytest.warns(hl.SlowWarning, match="one after the other"):
        y = hnet(x, condition=[0, 1, 2])
    close_leaves(y, torch.stack([copied(x[i], condition=i) for i in range(3)]))
    assert int(hnet.target_buffers.get_buffer("count")) == 3
    unchanged(target, before)
    close_leaves(dict(hnet.named_buffers()), dict(copied.named_buffers()))
