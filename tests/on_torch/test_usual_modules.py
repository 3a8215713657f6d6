"""Good input of kinds that are easily forgotten: sparse tables, masks, numbers without axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests.on_torch.silent import IDS, gradients, inputs, loop, made


class Looks(nn.Module):
    """A table, or a bag of one, and a layer."""

    def __init__(self, kind: str, sparse: bool) -> None:
        super().__init__()
        table = {"table": nn.Embedding, "bag": nn.EmbeddingBag}[kind]
        self.table = table(5, 4, sparse=sparse)
        self.layer = nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.table(ids))


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [("table", "auto"), ("table", "rows"), ("table", "loop"), ("bag", "auto"), ("bag", "loop")],
)
@pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")
def test_tables_with_sparse_gradients(kind: str, strategy: Any) -> None:
    torch.manual_seed(0)
    module, dense = (Looks(kind, sparse).double() for sparse in (True, False))
    hnet, ids = made(module), torch.tensor([[[1, 2], [2, 2]], [[0, 4], [1, 1]], [[3, 3], [2, 0]]])
    hnet.execution = hl.Execution(strategy=strategy)
    wanted = loop(hnet, dense, ids)
    ours = hnet(ids, condition=IDS)
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(gradients(hnet, ours), gradients(hnet, wanted))
    one = hnet(ids[0], condition=0)
    torch.testing.assert_close(gradients(hnet, one), gradients(hnet, loop(hnet, dense, ids)[0]))
    net: Any = hnet.instantiate(0)
    assert net.table.sparse
    assert module.table.sparse
    net(ids[0]).sum().backward()
    assert net.table.weight.grad.is_sparse


@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated")
@pytest.mark.parametrize("how", ["alone", "inside", "traced"])
def test_scripted_modules_are_refused(how: str) -> None:
    if how == "traced":
        target: Any = torch.jit.trace(nn.Linear(4, 4), torch.randn(1, 4))
    else:
        target = torch.jit.script(nn.Linear(4, 4))
    where = " at '0'" if how == "inside" else ""
    target = nn.Sequential(target, nn.Linear(4, 2)) if how == "inside" else target
    wanted = f"^target: got a Linear that was scripted or traced{where}; wanted modules that run in"
    with pytest.raises(TypeError, match=wanted + ".* Give the module as it was"):
        hl.HyperNetwork(target, condition=hl.Embedding(4, 3))


def test_noise_on_weights_finds_statistics_by_id() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).double()
    hnet, x = made(module), inputs()
    hnet(inputs(9, 4), condition=IDS)  # statistics of each id
    hnet.eval()
    noisy = hl.Perturbed(hnet, sigma=0.0, before=lambda shifted: [c - 1 for c in shifted])
    torch.testing.assert_close(noisy(x, condition=[1, 2, 3]), hnet(x, condition=IDS))
    noisy.train()(x, condition=[2, 3, 4])  # and they are kept
    hnet.eval()
    assert not torch.allclose(noisy(x, condition=[2, 3, 4]), hnet(x, condition=IDS))


class Scaled(nn.Module):
    """A layer and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.tensor(1.0))
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.number


@pytest.mark.parametrize("batch", [(), (3,), (0,)])
def test_tensors_without_axes_are_cut_from_a_vector(batch: tuple[int, ...]) -> None:
    hnet = hl.HyperNetwork(Scaled(), condition=hl.Vector(3))
    flat = torch.randn(*batch, 7)
    params = hl.unflatten(flat, hnet.plan)
    assert params["number"].shape == batch
    torch.testing.assert_close(hl.flatten(params, hnet.plan), flat)


class Masked(nn.Module):
    """A trunk with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.out_features = 4
        self.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) + self.get_buffer("mask")).softmax(-1)


def test_masks_of_a_trunk_are_saved(tmp_path: Path) -> None:
    hnet = hl.HyperNetwork(nn.Linear(2, 2), condition=hl.Embedding(4, 3), trunk=Masked())
    hl.save(hnet, tmp_path / "masked")
    again = hl.load(tmp_path / "masked", nn.Linear(2, 2), trunk=Masked())
    torch.testing.assert_close(again.generate(1), hnet.generate(1))
    trunk: Any = hnet.get_submodule("trunks.0.module")
    trunk.mask[0] = float("nan")
    with pytest.raises(ValueError, match=r"hnet: got 1 NaN or infinite values in 'trunks.0.module"):
        hl.save(hnet, tmp_path / "nan")
