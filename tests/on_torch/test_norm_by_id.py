"""Batch norm in the trunk with statistics of its own for each condition id."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import hyperloom.torch as hl
from tests._support.on_torch import hypernetwork

TARGET = nn.Linear(6, 4)


build = partial(
    hypernetwork,
    lambda: TARGET,
    condition=hl.Embedding(3, 2),
    trunk=hl.MLP(7, 5, norm="batch", per_condition=True),
    layout=hl.Chunked(4, 3),
)


def flat(hnet: hl.HyperNetwork, condition: Any) -> torch.Tensor:
    return hl.flatten(hnet.generate(condition), hnet.plan)


def test_a_batch_is_as_its_conditions_alone() -> None:
    """Each id as plain batch norm would have it, called with that id alone."""
    hnet = build()
    alone = []
    for i in (2, 0):
        plain = build(trunk=hl.MLP(7, 5, norm="batch"))
        state = {k: v for k, v in hnet.state_dict().items() if "by_id" not in k}
        plain.load_state_dict(state, strict=False)
        alone.append(flat(plain, i))
        for mine, other in zip(hnet.trunks[0], plain.trunks[0], strict=True):  # type: ignore[arg-type]
            mine.expected = (i, other)
    made = flat(hnet, [2, 0])
    torch.testing.assert_close(made, torch.stack(alone), atol=1e-5, rtol=1e-5)
    for mine in hnet.trunks[0]:  # type: ignore[union-attr]
        i, other = mine.expected
        torch.testing.assert_close(mine.by_id.norm_mean[i], other.norm_mean)
        torch.testing.assert_close(mine.by_id.norm_var[i], other.norm_var)
        assert not bool(mine.by_id.norm_mean[1].any())  # was not called
    made.square().sum().backward()
    assert not [n for n, p in hnet.named_parameters() if p.grad is None]


def test_repeated_ids_share_their_statistics() -> None:
    hnet = build()
    made = flat(hnet, [1, 1, 0])
    torch.testing.assert_close(made[0], made[1])
    torch.testing.assert_close(flat(hnet, [0]), made[2:])


def test_eval_uses_each_ids_own() -> None:
    hnet = build()
    for _ in range(5):
        flat(hnet, [0, 1])
    hnet.eval()
    both = flat(hnet, [0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(both[i], flat(hnet, i))
    x = torch.randn(3, 5, 6)
    y = hnet(x, condition=[0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(y[i], hnet(x[i], condition=i), atol=1e-5, rtol=1e-4)
    hnet.add_conditions(2)
    torch.testing.assert_close(flat(hnet, [0, 1, 2]), both)
    assert flat(hnet, 4).shape == (28,)


def test_training_runs_the_target() -> None:
    hnet = build()
    y = hnet(torch.randn(2, 5, 6), condition=[1, 2])
    y.square().sum().backward()
    means = hnet.trunks[0][0].by_id.norm_mean  # type: ignore[index]
    assert means.any(1).tolist() == [False, True, True]


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"MLP\(per_condition=\): got True with norm='rms'"):
        hl.MLP(3, per_condition=True)
    with pytest.raises(ValueError, match=r"trunk: got MLP.* wanted a condition with ids"):
        build(condition=hl.Vector(2))
    with pytest.raises(ValueError, match="one row for the id 1, which has no variance"):
        build(layout=hl.Full()).generate([0, 0, 1])


def test_one_slot_with_repeated_ids() -> None:
    hnet = build(layout=hl.Full())
    made = flat(hnet, [0, 0, 1, 1])
    assert made.shape == (4, 28)
    assert bool(torch.isfinite(made).all())
