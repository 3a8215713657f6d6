"""Running statistics of the target: by id, shared, of the batch; kept, saved and grown."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests.on_torch.small import IDS, Layer, X, close, of_ids


class Normed(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x))


def test_statistics_of_each_id_are_kept_saved_and_grown(tmp_path: Any) -> None:
    hnet = of_ids(Normed)
    for _ in range(3):
        hnet(X, condition=IDS)
    held = hnet.state_dict()["target_statistics.norm.running_mean"]
    assert held.shape == (4, 3)
    assert not held[1].any()  # an id that was not asked for
    assert held[[0, 2, 3]].any(-1).all()
    assert hnet.state_dict()["target_statistics.norm.num_batches_tracked"].tolist() == [3, 0, 3, 3]
    hnet.eval()
    y = hnet(X, condition=IDS)
    plain = hnet.instantiate(2)
    close(y[0], plain(X[0]).detach())
    close(hnet.run(hnet.generate(IDS), X, condition=IDS), y)
    hl.save(hnet, tmp_path / "file")
    again = hl.load(tmp_path / "file", Normed().double()).eval()
    assert again.statistics == hl.PerConditionStatistics()
    close(again(X, condition=IDS), y)
    hnet.add_conditions(2)
    close(hnet(X, condition=IDS), y)
    assert hnet.state_dict()["target_statistics.norm.running_mean"].shape == (6, 3)
    close(hnet(X, condition=[5, 4, 4]).shape, y.shape)


def test_shared_statistics_are_those_of_a_loop() -> None:
    hnet = of_ids(Normed, statistics=hl.SharedStatistics())
    each = copy.deepcopy(hnet)
    hnet(X, condition=IDS)
    for i in range(3):
        each(X[i], condition=IDS[i])
    close(dict(hnet.target_buffers.state_dict()), dict(each.target_buffers.state_dict()))
    assert int(hnet.target_buffers.get_buffer("norm.num_batches_tracked")) == 3
    assert "target_statistics.norm.running_mean" not in hnet.state_dict()


def test_batch_statistics(tmp_path: Any) -> None:
    hnet = of_ids(Normed, statistics=hl.BatchStatistics())
    y = hnet(X, condition=IDS)
    close(hnet.eval()(X, condition=IDS), y)
    assert not list(hnet.instantiate(0).buffers())
    hl.save(hnet, tmp_path / "file")
    again = hl.load(tmp_path / "file", Normed().double())
    assert again.statistics == hl.BatchStatistics()
    close(again.eval()(X, condition=IDS), y)


def test_statistics_of_recomputed_runs_are_updated_once() -> None:
    hnet = of_ids(Normed)
    plain = copy.deepcopy(hnet)
    hnet.execution = hl.Execution(recompute=True)
    hnet(X, condition=IDS).square().sum().backward()
    plain(X, condition=IDS).square().sum().backward()
    close(hnet.state_dict(), plain.state_dict())
    for a, b in zip(hnet.parameters(), plain.parameters(), strict=True):
        close(a.grad, b.grad)


def test_run_without_ids() -> None:
    hnet = of_ids(Normed)
    made = hnet.generate(IDS)
    with pytest.warns(UserWarning, match=r"not kept. Pass it: run\(params, ..., condition=ids"):
        y = hnet.run(made, X)
    close(y, hnet(X, condition=IDS))
    with pytest.raises(ValueError, match=r"condition: got nothing, and the target's 'norm.r"):
        hnet.eval().run(made, X)
    with pytest.raises(ValueError, match=r"condition: got conditions \(2,\) beside params"):
        hnet.run(made, X, condition=[0, 1])


class Codes(Layer):
    """Moves a codebook while training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codebook", torch.zeros(3, dtype=torch.float64))

    codebook: Tensor

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.training:
            self.codebook.mul_(0.9).add_(0.1 * y.detach().mean(0))
        return y - self.codebook


def test_other_buffers_by_id() -> None:
    hnet = of_ids(Codes, statistics=hl.PerConditionStatistics(also="code*"))
    each = copy.deepcopy(hnet)
    y = hnet(X, condition=IDS)  # at once, without a warning
    close(y, torch.stack([each(X[i], condition=IDS[i]) for i in range(3)]))
    close(hnet.state_dict(), each.state_dict())
    # Two rows of one id are steps one after the other.
    with pytest.warns(hl.SlowWarning, match="two conditions of one id write its buffer 'codebook'"):
        y = hnet(X, condition=[1, 1, 0])
    close(y, torch.stack([each(X[i], condition=c) for i, c in enumerate([1, 1, 0])]))
    close(hnet.state_dict(), each.state_dict())
    assert hnet.explain(X, condition=IDS).strategy == "vmap"


def test_statistics_inside_a_transform_are_not_kept() -> None:
    hnet = of_ids(Normed)
    before = copy.deepcopy(hnet.state_dict())

    def loss(x: Tensor) -> Tensor:
        return hnet(x, condition=IDS).square().sum()

    with pytest.warns(UserWarning, match="inside a torch.func transform"):
        found = torch.func.grad(loss)(X)
    close(hnet.state_dict(), before)
    x = X.clone().requires_grad_()
    loss(x).backward()
    close(found, x.grad)


@pytest.mark.parametrize(
    ("statistics", "condition", "error", "text"),
    [
        (hl.BatchStatistics, None, TypeError, "Call it: BatchStatistics"),
        ("shared", None, TypeError, "statistics: got 'shared'; wanted PerConditionStatistics"),
        (hl.PerConditionStatistics(), hl.Vector(2), ValueError, "wanted a condition with ids"),
        (hl.PerConditionStatistics("no.*"), None, ValueError, "wanted patterns that name buffers"),
    ],
)
def test_statistics_that_are_refused(
    statistics: Any, condition: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        of_ids(Normed, condition, statistics=statistics)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: hl.Execution(strategy=None), r"strategy=.: got None; wanted 'auto', 'rows'"),  # type: ignore[arg-type]
        (lambda: hl.Execution(randomness=1), "randomness=.: got 1; wanted 'different'"),  # type: ignore[arg-type]
        (lambda: hl.PerConditionStatistics(also=3), "wanted a name pattern"),  # type: ignore[arg-type]
        (lambda: hl.Chunked(7, per_condition="yes"), "Chunked.*wanted a bool"),  # type: ignore[arg-type]
        (lambda: hl.Grouped(per_condition="yes"), "Grouped.*wanted a bool"),  # type: ignore[arg-type]
    ],
)
def test_choices_that_are_refused(make: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make()


def test_a_strategy_that_there_is_not() -> None:
    with pytest.raises(ValueError, match=r"strategy=.: got 'vmp'; wanted .* Did you mean 'vmap'"):
        hl.Execution(strategy="vmp")


def test_a_wider_condition_is_refused() -> None:
    hnet = hl.HyperNetwork(nn.Linear(4, 3), condition=hl.Vector(2))
    with pytest.raises(TypeError, match=r"wanted torch.float32, in which the hypernetwork"):
        hnet(X[0].float(), condition=torch.zeros(2, dtype=torch.float64))
    hnet.double()(X[0], condition=torch.zeros(2))  # exact


def test_no_other_warning_comes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_ids(Normed)(X, condition=IDS)
