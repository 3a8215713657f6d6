"""Layers that vmap refuses or runs slowly: run at once, a batch is the loop, numbers and gradients.

`strategy="vmap"` raises where a layer cannot be run at once, and a warning of vmap's is an error
here, so nothing in this file falls back on a loop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

import hyperloom.torch as hl
from tests._support.compare import close
from tests._support.on_torch import shaken

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")

BOTH = (True, False)


def real(*shape: int) -> Tensor:
    return torch.randn(3, *shape, dtype=torch.float64)


class Packs(nn.Module):
    """Packs its inputs, runs a recurrent layer, pads again."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.layer = kind(4, 3, **options)

    def forward(self, x: Tensor) -> Any:
        packed = pack_padded_sequence(x, [5, 3, 3, 1])
        y, state = self.layer(packed)
        return pad_packed_sequence(y, padding_value=-1.0, total_length=6)[0], state


class Attends(nn.Module):
    """Attention by function, with heads or without."""

    def __init__(self, heads: bool) -> None:
        super().__init__()
        self.layer, self.heads = nn.Linear(4, 12), heads

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = self.layer(x).chunk(3, -1)
        if self.heads:
            parts = [p.unflatten(-1, (2, 2)).transpose(-2, -3) for p in parts]
        return F.scaled_dot_product_attention(*parts, attn_mask=mask, is_causal=mask is None)


def compare(
    hnet: hl.HyperNetwork, inputs: tuple[Any, ...], condition: Any, in_dims: Any = 0
) -> None:
    """Compare a batch run at once with the loop: outputs, gradients, buffers."""
    loop = copy.deepcopy(hnet)
    hnet.execution, loop.execution = hl.Execution(strategy="vmap"), hl.Execution(strategy="loop")
    ours = tree_leaves(hnet(*inputs, condition=condition, in_dims=in_dims))
    theirs = tree_leaves(loop(*inputs, condition=condition, in_dims=in_dims))
    close(ours, theirs)
    weights = [torch.randn_like(y) for y in ours]
    found = gradients(ours, weights, hnet)
    close(found, gradients(theirs, weights, loop))
    assert any(bool(g.any()) for g in found)
    close([b.double() for b in hnet.buffers()], [b.double() for b in loop.buffers()])


def gradients(ys: list[Tensor], weights: list[Tensor], hnet: nn.Module) -> tuple[Tensor, ...]:
    loss = torch.stack([(y * w).sum() for y, w in zip(ys, weights, strict=True)]).sum()
    return torch.autograd.grad(
        loss, list(hnet.parameters()), allow_unused=True, materialize_grads=True
    )


def made(make: Callable[[], nn.Module], condition: Any = None) -> hl.HyperNetwork:
    torch.manual_seed(0)
    target = make().double()
    return shaken(hl.HyperNetwork(target, condition=condition or hl.Embedding(4, 3)))


RNNS: list[tuple[str, Callable[[], nn.Module], tuple[Any, ...]]] = [
    *((k.__name__, lambda k=k: k(4, 3), (real(5, 2, 4),)) for k in (nn.LSTM, nn.GRU, nn.RNN)),
    *(
        (
            f"{k.__name__}-deep",
            lambda k=k: k(4, 3, 2, bidirectional=True, batch_first=True, bias=False),
            (real(2, 5, 4),),
        )
        for k in (nn.LSTM, nn.GRU, nn.RNN)
    ),
    *((f"{k.__name__}-one", lambda k=k: k(4, 3, 2), (real(5, 4),)) for k in (nn.LSTM, nn.GRU)),
    *(
        (
            f"{k.__name__}-packed",
            lambda k=k: Packs(k, num_layers=2, bidirectional=True),
            (real(5, 4, 4),),
        )
        for k in (nn.LSTM, nn.GRU, nn.RNN)
    ),
    ("LSTM-packed-forward", lambda: Packs(nn.LSTM), (real(5, 4, 4),)),
    (
        "LSTM-projected-from-a-state",
        lambda: nn.LSTM(4, 5, 2, proj_size=2, bidirectional=True),
        (real(5, 2, 4), (real(4, 2, 2), real(4, 2, 5))),
    ),
    ("GRU-from-a-state", lambda: nn.GRU(4, 5), (real(5, 2, 4), real(1, 2, 5))),
    ("RNN-relu", lambda: nn.RNN(4, 5, 2, nonlinearity="relu"), (real(5, 2, 4),)),
    *(
        (f"{k.__name__}-{bias}", lambda k=k, bias=bias: k(4, 3, bias=bias), (real(5, 4),))
        for k in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
        for bias in BOTH
    ),
    ("RNNCell-relu", lambda: nn.RNNCell(4, 3, nonlinearity="relu"), (real(4), real(3))),
]


@pytest.mark.parametrize(("make", "inputs"), [r[1:] for r in RNNS], ids=[r[0] for r in RNNS])
def test_recurrent(make: Callable[[], nn.Module], inputs: tuple[Any, ...]) -> None:
    compare(made(make), inputs, [2, 0, 3])


def test_dropout_between_recurrent_layers() -> None:
    """In training mode no loop has the same draws; what is dropped is right in the mean."""
    hnet = made(lambda: nn.LSTM(4, 3, 2, dropout=0.5))
    x = real(5, 2, 4)
    assert not torch.equal(hnet(x, condition=[0, 1, 2])[0], hnet(x, condition=[0, 1, 2])[0])
    compare(hnet.eval(), (x,), [0, 1, 2])


BAGS = torch.randint(0, 6, (3, 5, 4), generator=torch.Generator().manual_seed(0))
STARTS = torch.tensor([0, 3, 3, 9, 20])
ROWS: list[tuple[str, Callable[[], nn.Module], tuple[Any, ...], Any]] = [
    *(
        (f"bag-{mode}", lambda m=mode: nn.EmbeddingBag(6, 3, mode=m, padding_idx=2), (BAGS,), 0)
        for mode in ("sum", "mean", "max")
    ),
    *(
        (
            f"bag-offsets-{mode}",
            lambda m=mode: nn.EmbeddingBag(6, 3, mode=m, include_last_offset=m == "sum"),
            (BAGS.flatten(1), STARTS),
            (0, None),
        )
        for mode in ("sum", "mean", "max")
    ),
    ("bag-weighted", lambda: nn.EmbeddingBag(6, 3, mode="sum"), (BAGS, None, real(5, 4)), 0),
    ("bilinear", lambda: nn.Bilinear(4, 3, 2), (real(5, 4), real(5, 3)), 0),
    ("attention", lambda: Attends(False), (real(5, 4),), 0),
    ("attention-heads", lambda: Attends(True), (real(2, 5, 4),), 0),
    ("attention-mask", lambda: Attends(True), (real(2, 5, 4), real(2, 1, 5, 5) > 0), 0),
    (
        "attention-one-mask",
        lambda: Attends(True),
        (real(2, 5, 4), torch.eye(5, dtype=torch.bool)),
        (0, None),
    ),
    ("old-weight-norm", lambda: nn.utils.weight_norm(nn.Linear(4, 3)), (real(5, 4),), 0),
    (
        "whole-weight-norm",
        lambda: nn.utils.weight_norm(nn.Linear(4, 3), dim=cast(Any, None)),
        (real(4),),
        0,
    ),
    ("weight-norm", lambda: weight_norm(nn.Conv1d(4, 3, 2), dim=1), (real(2, 4, 5),), 0),
    ("old-spectral-norm", lambda: nn.utils.spectral_norm(nn.Linear(4, 3)), (real(5, 4),), 0),
    ("spectral-norm", lambda: spectral_norm(nn.Conv2d(4, 3, 2)), (real(5, 4, 3, 3),), 0),
    (
        "multi-head",
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        (real(2, 5, 4), real(2, 5, 4), real(2, 5, 4)),
        0,
    ),
    ("encoder", lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), (real(5, 2, 4),), 0),
    (
        "decoder",
        lambda: nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0),
        (real(5, 2, 4), real(6, 2, 4)),
        0,
    ),
]


@pytest.mark.parametrize("training", BOTH, ids=["train", "eval"])
@pytest.mark.parametrize(
    ("make", "inputs", "in_dims"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_others(
    make: Callable[[], nn.Module], inputs: tuple[Any, ...], in_dims: Any, training: bool
) -> None:
    compare(made(make).train(training), inputs, [2, 0, 3], in_dims)


NORMS: list[tuple[str, Callable[[], nn.Module], Tensor]] = [
    ("1d", lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), real(5, 4)),
    (
        "2d",
        lambda: nn.Sequential(nn.Conv2d(4, 3, 2), nn.BatchNorm2d(3, momentum=0.3)),
        real(5, 4, 3, 3),
    ),
    ("3d", lambda: nn.BatchNorm3d(4, affine=True), real(2, 4, 2, 2, 2)),
    (
        "instance",
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        real(5, 4, 3, 3),
    ),
]


@pytest.mark.parametrize("training", BOTH, ids=["train", "eval"])
@pytest.mark.parametrize("condition", [hl.Embedding(4, 3), hl.Vector(3)], ids=["ids", "none"])
@pytest.mark.parametrize(("make", "x"), [r[1:] for r in NORMS], ids=[r[0] for r in NORMS])
def test_norms_with_statistics(
    make: Callable[[], nn.Module], x: Tensor, condition: Any, training: bool
) -> None:
    """Also for rows that share an id: each is a step of its own, in order."""
    hnet = made(make, condition).train(training)
    compare(hnet, (x,), [1, 0, 1] if isinstance(condition, hl.Embedding) else real(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda: nn.Linear(4, 3), (real(5, 4),)),
        (lambda: nn.Conv2d(4, 3, 2), (real(5, 4, 3, 3),)),
        (lambda: nn.GRU(4, 3), (real(5, 2, 4),)),
        (lambda: nn.RNN(4, 3), (real(5, 2, 4),)),
        (lambda: nn.LSTMCell(4, 3), (real(5, 4),)),
        (lambda: nn.RNNCell(4, 3), (real(5, 4),)),
        (lambda: nn.EmbeddingBag(6, 3), (BAGS,)),
        (lambda: nn.Sequential(nn.Conv1d(4, 4, 1), nn.GroupNorm(2, 4)), (real(5, 4, 3),)),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (real(5, 4),)),
        (lambda: nn.TransformerEncoderLayer(4, 2, 8), (real(5, 2, 4),)),
    ],
    ids=["linear", "conv", "gru", "rnn", "lstm-cell", "rnn-cell", "bag", "group", "batch", "enc"],
)
def test_autocast_gives_the_dtypes_of_the_plain_module(
    make: Callable[[], nn.Module], inputs: tuple[Tensor, ...], dtype: torch.dtype
) -> None:
    plain = make()
    x = [v.float() if v.is_floating_point() else v for v in inputs]
    names = [name for name, _ in plain.named_parameters()]
    with torch.autocast("cpu", dtype=dtype):
        wanted = [v.dtype for v in tree_leaves(plain(*(v[0] for v in x)))]
        for layout in (hl.Full(), {names[-1]: hl.Full()}):
            hnet = hl.HyperNetwork(plain, condition=hl.Embedding(4, 3), layout=layout)
            one = [v.dtype for v in tree_leaves(hnet(*(v[0] for v in x), condition=1))]
            batch = [v.dtype for v in tree_leaves(hnet(*x, condition=[0, 1, 2]))]
            assert one == wanted
            assert batch == wanted
