"""Images as weights: the trunk `Deconv` and the layout `Direct`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hyperloom.torch as hl
from hyperloom._core.reference.executor import generate as oracle
from hyperloom.torch._generate.deconv import SelfAttention
from hyperloom.torch._tools.checkpoint import neutral_tensors
from tests._support.on_torch import hypernetwork

TARGET = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))  # 103 numbers

CASES: dict[str, dict[str, Any]] = {
    "one channel": {"trunk": hl.Deconv((11, 10), (8, 4)), "layout": hl.Direct(110)},
    "channels": {"trunk": hl.Deconv((6, 7, 3), (8, 4), 3), "layout": hl.Direct(126)},
    "even kernels": {"trunk": hl.Deconv((16, 9), (4, 3), (4, 2)), "layout": hl.Direct(144)},
    "small": {"trunk": hl.Deconv((3, 5), (4,), 3), "layout": hl.Direct(15, 4)},
    "kernels": {
        "trunk": hl.Deconv((9, 16), (4, 3, 2), (3, (1, 5), 4), (0, 2), "tanh"),
        "layout": hl.Direct(144),
    },
    "attention": {
        "trunk": hl.Deconv((11, 10), (16, 4), 3, (0, 1)),
        "layout": hl.Direct(110),
    },
    "runs": {"trunk": hl.Deconv((5, 5), (4,), 3, (0,)), "layout": hl.Direct(25, 3)},
    "runs per condition": {
        "trunk": hl.Deconv((5, 5), (4,), 3),
        "layout": hl.Direct(25, 3, per_condition=True),
    },
    "spectral": {"trunk": hl.Deconv((11, 10), (4,), 3, spectral=True), "layout": hl.Direct(110)},
    "below a head": {"trunk": hl.Deconv((4, 4), (4,), 3), "layout": hl.Chunked(20, 4)},
    "mixed": {
        "trunk": hl.Deconv((8, 8), (4,), 3),
        "layout": {"0.*": hl.Direct(64), "2.weight": hl.Full(), "2.bias": hl.Shared()},
    },
    "MLP": {"trunk": hl.MLP(7, 103, norm=None), "layout": hl.Direct(103)},
    "MLP spectral": {"trunk": hl.MLP(7, 5, spectral=True), "layout": hl.Chunked(9, 3)},
}


def of_case(name: str, **kwargs: Any) -> hl.HyperNetwork:
    hnet = hypernetwork(lambda: TARGET, **{**CASES[name], **kwargs})
    with torch.no_grad():
        for module in hnet.modules():
            if isinstance(module, SelfAttention):
                module.gamma.fill_(0.7)  # it starts at 0, where attention cannot be seen
    return hnet


@pytest.mark.parametrize("name", CASES)
def test_against_the_oracle(name: str) -> None:
    hnet = of_case(name).double()
    state = {key: t.double().numpy() for key, t in neutral_tensors(hnet, with_base=True).items()}
    made = hnet.generate([0, 2])
    for i, condition in enumerate((0, 2)):
        wanted = oracle(hnet.plan, state, condition)
        for key, value in wanted.items():
            found = made[key][i].detach().numpy()
            np.testing.assert_allclose(found, value, atol=1e-6 * max(1, np.abs(value).max()))


@pytest.mark.parametrize("name", CASES)
def test_runs_and_learns(name: str) -> None:
    hnet = of_case(name)
    x = torch.randn(3, 7, 6)
    y = hnet(x, condition=[0, 1, 2])
    params = hnet.generate([0, 1, 2])
    for i in range(3):
        one = {key: value[i] for key, value in params.items()}
        wanted = torch.func.functional_call(TARGET, one, (x[i],))
        torch.testing.assert_close(y[i], wanted, atol=1e-5, rtol=1e-4)
    y.square().mean().backward()
    without = [n for n, p in hnet.named_parameters() if p.grad is None]
    assert not without
    assert hnet.plan.num_parameters == sum(p.numel() for p in hnet.parameters())


@pytest.mark.parametrize("name", ["attention", "runs", "channels", "MLP"])
def test_starts_with_the_targets_own_scale(name: str) -> None:
    found: dict[str, list[float]] = {}
    for seed in range(20):
        torch.manual_seed(seed)
        hnet = hl.HyperNetwork(TARGET, condition=hl.Embedding(3, 5), **CASES[name])
        for key, value in hnet.generate([0, 1, 2]).items():
            found.setdefault(key, []).append(float(value.detach().square().mean()))
    for key in ("0.weight", "2.weight"):
        own = float(dict(TARGET.named_parameters())[key].detach().square().mean())
        assert 0.6 < np.mean(found[key]) / own < 1.6, key


def test_checkpoints_and_regularizer(tmp_path: Any) -> None:
    hnet = of_case("runs")
    hl.save(hnet, tmp_path / "a")
    loaded = hl.load(tmp_path / "a", TARGET)
    for key, value in hnet.generate([0, 1]).items():
        torch.testing.assert_close(loaded.generate([0, 1])[key], value)
    regularizer = hl.OutputRegularizer(1.0)
    regularizer.remember(hnet, [0, 1])
    assert float(regularizer(hnet).detach()) == 0.0
    with torch.no_grad():
        next(hnet.trunks.parameters()).add_(1.0)
    assert float(regularizer(hnet).detach()) > 0.0


def test_sizes_follow_the_rule() -> None:
    """Each layer doubles; what is below 4 stays."""
    trunk = hl.Deconv((33, 6), (8, 8, 8, 8))
    assert trunk.sizes == ((5, 6), (5, 6), (9, 6), (17, 6), (33, 6))
    assert hl.Deconv((64, 64), (8, 8, 8, 8)).sizes[0] == (4, 4)
    assert hl.Deconv((3, 3), (8,)).sizes == ((3, 3), (3, 3))


def test_batch_norm_trains_and_evaluates() -> None:
    trunk = hl.Deconv((11, 10), (8, 4), norm="batch")
    hnet = of_case("one channel", trunk=trunk)
    before = hnet.trunks[0].norms[0].norm_mean.clone()  # type: ignore[union-attr]
    hnet.generate([0, 1, 2])
    after = hnet.trunks[0].norms[0].norm_mean  # type: ignore[union-attr]
    assert not torch.equal(before, after)
    hnet.eval()
    one = hnet.generate(1)["0.weight"]
    torch.testing.assert_close(hnet.generate([0, 1])["0.weight"][1], one)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: hl.Deconv((4,)), r"Deconv\(image=\): got \(4,\); wanted \(height, width"),
        (lambda: hl.Deconv((4, 0)), r"Deconv\(image=\): got 0; wanted an int of at least 1"),
        (lambda: hl.Deconv((4, 4), ()), r"Deconv\(filters=\): got none; wanted one for each"),
        (lambda: hl.Deconv((4, 4), (2,), (1, 2, 3)), r"Deconv\(kernel=\): got \(1, 2, 3\)"),
        (lambda: hl.Deconv((4, 4), (2,), attention=(1,)), r"Deconv\(attention=\): got 1"),
        (lambda: hl.Deconv((4, 4), activation="sine"), r"Deconv\(activation=\): got 'sine'"),
        (lambda: hl.Deconv((4, 4), norm="rms"), r"Deconv\(norm=\): got 'rms'"),
        (lambda: hl.Direct(0), r"Direct\(size=\): got 0"),
        (lambda: hl.Direct(3, 0, True), r"Direct\(embedding=\): got 0; wanted embedding of"),
        (lambda: of_case("MLP", layout=hl.Direct(90)), r"Direct\(size=\): got 90; wanted at least"),
        (
            lambda: of_case("MLP", layout=hl.Direct(120)),
            r"layout: got Direct\(120\) with features of width 103; wanted Direct\(103\)",
        ),
        (lambda: of_case("MLP", form=hl.Delta()), r"layout: got Direct\(103\) for '0.weight'"),
        (
            lambda: of_case("MLP", condition=hl.Ids(3)),
            r"condition: got Ids\(3\), which has no vector, for direct heads; wanted a vector",
        ),
        (lambda: hl.Ids(0), r"Ids\(num=\): got 0"),
    ],
)
def test_refused(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
