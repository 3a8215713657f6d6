"""Autocast, function by function: a batch of conditions has the dtypes of one condition.

`vmap` takes functions apart before autocast sees them, and so returns other dtypes than outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_leaves

import hyperloom.torch as hl
from tests._support.on_torch import shaken

pytestmark = [
    pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype"),  # of the plain RMSNorm
]

# name: function of one tensor, shape of the tensor. All run in plain PyTorch under autocast.
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "linear": (lambda x: F.linear(x, x), (3, 4)),
    "linear-bias": (lambda x: F.linear(x, x[:2], x[0, :2]), (3, 4)),
    "conv1d": (lambda x: F.conv1d(x, x[:, :, :2]), (2, 2, 4)),
    "conv2d": (lambda x: F.conv2d(x, x[..., :2, :2]), (2, 2, 3, 3)),
    "conv_transpose2d": (lambda x: F.conv_transpose2d(x, x[..., :2, :2]), (2, 2, 3, 3)),
    "prelu": (lambda x: F.prelu(x, x[0]), (3, 2)),
    "matmul": (lambda x: x @ x.mT, (3, 4)),
    "addmm": (lambda x: torch.addmm(x[0, :3], x, x.mT), (3, 4)),
    "addmm-method": (lambda x: x[:, :3].addmm(x, x.mT), (3, 4)),
    "baddbmm": (lambda x: torch.baddbmm(x[..., :3], x, x.mT), (2, 3, 4)),
    "addbmm": (lambda x: torch.addbmm(x[0, :, :3], x, x.mT), (2, 3, 4)),
    "vecdot": (lambda x: torch.linalg.vecdot(x, x), (3, 4)),
    "dot": (lambda x: torch.dot(x, x), (4,)),
    "mv": (lambda x: torch.mv(x, x[0]), (3, 4)),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), (2, 2, 3, 4)),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.tensor([1, 0, 2])), (3, 4)),
    "cross_entropy-smooth": (
        lambda x: F.cross_entropy(x, x.sigmoid(), label_smoothing=0.1, reduction="sum"),
        (3, 4),
    ),
    "nll_loss": (lambda x: F.nll_loss(x, torch.tensor([1, 0, 2])), (3, 4)),
    "l1_loss": (lambda x: F.l1_loss(x, 2 * x), (3,)),
    "mse_loss": (lambda x: F.mse_loss(x, 2 * x), (3,)),
    "huber_loss": (lambda x: F.huber_loss(x, 2 * x), (3,)),
    "smooth_l1_loss": (lambda x: F.smooth_l1_loss(x, 2 * x), (3,)),
    "bce": (lambda x: F.binary_cross_entropy_with_logits(x, x.sigmoid()), (3,)),
    "kl_div": (lambda x: F.kl_div(x, x.sigmoid(), reduction="sum"), (3,)),
    "poisson_nll_loss": (lambda x: F.poisson_nll_loss(x, x.sigmoid()), (3,)),
    "cosine_embedding_loss": (
        lambda x: F.cosine_embedding_loss(x, x.flip(1), torch.ones(3)),
        (3, 4),
    ),
    "hinge_embedding_loss": (lambda x: F.hinge_embedding_loss(x, torch.ones(3)), (3,)),
    "margin_ranking_loss": (lambda x: F.margin_ranking_loss(x, x.flip(0), torch.ones(3)), (3,)),
    "triplet_margin_loss": (lambda x: F.triplet_margin_loss(x, x.flip(0), 2 * x), (3, 4)),
    "cdist": (lambda x: torch.cdist(x, x.flip(1)), (3, 4)),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2), (1, 2, 2, 2, 2)),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, 1), (1, 2, 2, 2, 2)),
    "trace": (lambda x: x.trace(), (3, 3)),
    "solve": (lambda x: torch.linalg.solve(x + 5 * torch.eye(3), x[0]), (3, 3)),
    "rfft": (lambda x: torch.fft.rfft(x).abs(), (8,)),
    "linear_cross_entropy": (
        lambda x: F.linear_cross_entropy(x, x, torch.tensor([1, 0, 2])),
        (3, 4),
    ),
    "layer_norm": (lambda x: F.layer_norm(x, (4,), x[0]), (3, 4)),
    "rms_norm": (lambda x: F.rms_norm(x, (4,), x[0]), (3, 4)),
    "group_norm": (lambda x: F.group_norm(x, 2), (3, 4)),
    "softmax": (lambda x: x.softmax(-1), (3, 4)),
}


class Applied(nn.Module):
    """A function of a generated tensor, which is in full or in half precision."""

    def __init__(self, name: str, low: torch.dtype | None) -> None:
        super().__init__()
        self.function, shape = FUNCTIONS[name]
        self.weight = nn.Parameter(torch.randn(shape))
        self.low = low

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight * x
        return self.function(y if self.low is None else y.to(self.low))


@pytest.mark.parametrize("low", [False, True], ids=["single", "half"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtypes_are_those_of_one_condition(name: str, dtype: torch.dtype, low: bool) -> None:
    hnet = shaken(
        hl.HyperNetwork(Applied(name, dtype if low else None), condition=hl.Embedding(3, 2))
    )
    x = torch.tensor([1.0, 0.9, 1.1])
    with torch.autocast("cpu", dtype=dtype):
        each = [hnet(a, condition=i) for i, a in enumerate(x)]
        batch = hnet(x, condition=[0, 1, 2])
    assert batch.dtype == each[0].dtype
    torch.testing.assert_close(batch, torch.stack(each), rtol=0.05, atol=0.05)
    batch.float().sum().backward()
    (gradient,) = [p.grad for n, p in hnet.named_parameters() if n == "heads.full.weight"]
    assert gradient is not None
    assert gradient.dtype == torch.float32


@pytest.mark.parametrize("name", ["linear-bias", "dot", "addmm", "cross_entropy"])
def test_the_wrong_dtypes_are_torchs(name: str) -> None:
    """Without hyperloom too; a name that fails here needs its rule no more."""
    function, shape = FUNCTIONS[name]
    x = torch.randn(shape).to(torch.bfloat16 if name == "cross_entropy" else torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert vmap(function)(x.expand(2, *shape)).dtype != function(x).dtype


class AfterLinear(nn.Module):
    """A norm of what a layer returns: half precision beside weights in float32."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv1d(4, 4, 1), norm

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return self.norm(y)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.LayerNorm(5),
    "layer-2": lambda: nn.LayerNorm([4, 5]),
    "layer-plain": lambda: nn.LayerNorm(5, elementwise_affine=False),
    "group": lambda: nn.GroupNorm(2, 4),
    "instance": lambda: nn.InstanceNorm1d(4, affine=True),
    "instance-tracked": lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True),
    "batch": lambda: nn.BatchNorm1d(4),
    "rms": lambda: nn.RMSNorm(5),
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", NORMS)
def test_norms_after_a_layer(name: str, dtype: torch.dtype, train: bool) -> None:
    hnet = shaken(hl.HyperNetwork(AfterLinear(NORMS[name]()), condition=hl.Embedding(3, 2)))
    hnet.train(train)
    hnet.execution = hl.Execution(strategy="vmap")  # no loop in its place
    x = torch.randn(3, 6, 4, 5)
    plain = [hnet.instantiate(i) for i in range(3)]
    with torch.autocast("cpu", dtype=dtype):
        each = [module(a) for module, a in zip(plain, x, strict=True)]
        batch = hnet(x, condition=[0, 1, 2])
    assert batch.dtype == each[0].dtype
    torch.testing.assert_close(batch, torch.stack(each), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bias": False, "bidirectional": True}, {"dropout": 0.5}])
def test_recurrent_layers_return_what_this_processor_does(
    options: dict[str, Any], kind: Any, dtype: torch.dtype, grad: bool
) -> None:
    hnet = shaken(hl.HyperNetwork(kind(4, 3, 2, **options), condition=hl.Embedding(3, 2)))
    x = torch.randn(3, 5, 2, 4)
    with torch.autocast("cpu", dtype=dtype), torch.set_grad_enabled(grad):
        batch = tree_leaves(hnet(x, condition=[0, 1, 2]))
        assert all(bool(y.isfinite().all()) for y in batch)
        try:
            plain = tree_leaves(hnet.instantiate(0)(x[0]))
        except RuntimeError as error:  # some processors have no half precision for it; ours has
            if kind is nn.LSTM and "could not create a primitive" in str(error):
                return
            raise
    assert [y.dtype for y in batch] == [y.dtype for y in plain]
    assert [y.shape[1:] for y in batch] == [y.shape for y in plain]


def test_asking_for_a_dtype_draws_no_random_numbers() -> None:
    hnet = hl.HyperNetwork(nn.LSTM(4, 3, 2, dropout=0.5), condition=hl.Embedding(3, 2))
    x, draws = torch.randn(3, 5, 2, 4), []
    for _ in range(2):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hnet(x, condition=[0, 1, 2])
        draws.append(torch.rand(3))
    assert torch.equal(*draws)
