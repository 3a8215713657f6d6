"""Whatever way a batch is run, it is the loop: from parts, in slices, recomputed, ids shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests._support.cases import NUM_IDS, pick
from tests.on_torch.cases import CASES, Case
from tests.on_torch.test_batch_equals_loop import PER_LAYOUT, close, grads

# The cost model has a say where a linear head or a bank gives the numbers.
SUMS = [
    case
    for case in CASES
    if case.form in ("whole", "delta", "delta-trained", "mixed-forms", "templates")
    and case.layout not in ("per-condition", "shared")
]


def check(hnet: hl.HyperNetwork, run: Callable[[], Tensor], x: Tensor, conditions: Any) -> None:
    """Compare `run()` with a loop over the conditions, one by one."""
    y = run()
    each = torch.stack([hnet(x[i], condition=pick(conditions, i)) for i in range(len(x))])
    close(y, each)
    parameters = dict(hnet.named_parameters())
    close(grads(y, parameters), grads(each, parameters))


@pytest.mark.parametrize("way", ["inputs", "outputs"])
@pytest.mark.parametrize("case", SUMS, ids=str)
def test_every_layer_from_its_parts(case: Case, way: str, take: Callable[[str], None]) -> None:
    take(way)
    hnet, x, conditions = case.build(), case.inputs(3), case.conditions(3)
    check(hnet, lambda: hnet(x, condition=conditions), x, conditions)


@pytest.mark.parametrize("case", [c for c in CASES if c.condition == "embedding"], ids=str)
@pytest.mark.parametrize("ids", [[1, 1, 1, 1, 3, 1], [4, 2, 0] * NUM_IDS], ids=["few", "many"])
def test_rows_that_share_an_id(case: Case, ids: list[int]) -> None:
    hnet, x, conditions = case.build(), case.inputs(len(ids)), torch.tensor(ids)
    check(hnet, lambda: hnet(x, condition=conditions), x, conditions)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("case", PER_LAYOUT, ids=str)
def test_a_batch_in_slices(case: Case, recompute: bool) -> None:
    hnet, x, conditions = case.build(), case.inputs(5), case.conditions(5)
    two = 2 * hnet.plan.output_bytes(1, 8)
    hnet.execution = hl.Execution(max_memory=two, recompute=recompute)
    check(hnet, lambda: hnet(x, condition=conditions), x, conditions)
    shared = hnet(x[0], condition=conditions, in_dims=None)
    hnet.execution = hl.Execution()
    close(shared, hnet(x[0], condition=conditions, in_dims=None))


def test_slices_are_pieces_of_the_batch() -> None:
    """The runs are seen: five conditions, two at a time."""
    sizes = []
    hnet = hl.HyperNetwork(nn.Linear(4, 2), condition=hl.Vector(3))
    hnet.heads["full"].register_forward_hook(lambda *_: sizes.append(1))
    hnet.execution = hl.Execution(max_memory=2 * hnet.plan.output_bytes())
    hnet(torch.randn(5, 3, 4), condition=torch.randn(5, 3))
    assert len(sizes) == 3


def test_recomputing_draws_the_same_numbers() -> None:
    """Dropout in the trunk and in the target, noise as condition: the same in both passes."""
    target = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    hnet = hl.HyperNetwork(
        target.double(),
        condition=hl.Noise(3),
        trunk=hl.MLP(6, dropout=0.5),
        layout=hl.Chunked(9, 2),
    )
    x, parameters = torch.randn(4, 3, 4, dtype=torch.float64), dict(hnet.named_parameters())
    found = []
    for recompute in (False, True):
        hnet.execution = hl.Execution(recompute=recompute)
        torch.manual_seed(3)
        y = hnet(x, condition=4)
        found.append((y, grads(y, parameters)))
    close(found[1][0], found[0][0])
    close(found[1][1], found[0][1])
