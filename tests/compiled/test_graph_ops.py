"""Operations of our own for graphs: the numbers and gradients of PyTorch's, with `vmap` and not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import vmap

import hyperloom.torch as hl
from hyperloom.torch._rules.registry import GRAPH

pytestmark = pytest.mark.filterwarnings("ignore")  # what torch.compile imports and does inside
B = 3


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def close_or_none(found: Any, expected: Any) -> None:
    """Gradients of what is not used are None, here and there."""
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def gradients(y: Any, x: Any) -> Any:
    parts = [t for t in (y if isinstance(y, tuple) else (y,)) if t.is_floating_point()]
    total = torch.stack([t.square().sum() for t in parts]).sum()
    wanted = [t for t in x if t.requires_grad]
    return torch.autograd.grad(total, wanted, allow_unused=True)


def compare(rule: Any, plain: Any, args: Any, dims: Any) -> None:
    """Compare a rule with the function: by itself, and inside `vmap` with a loop."""
    args = [a.requires_grad_() if a.is_floating_point() else a for a in args]
    first = [a if d is None else a.select(d, 0) for a, d in zip(args, dims, strict=True)]
    close_or_none(rule(*first), plain(*first))
    found = vmap(rule, in_dims=tuple(dims))(*args)
    rows = [
        plain(*(a if d is None else a.select(d, i) for a, d in zip(args, dims, strict=True)))
        for i in range(B)
    ]
    several = isinstance(rows[0], tuple)
    expected = tuple(map(torch.stack, zip(*rows, strict=True))) if several else torch.stack(rows)
    close_or_none(found, expected)
    close_or_none(gradients(found, args), gradients(expected, args))


IMAGES: dict[str, tuple[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]]] = {
    "max-1d": (F.max_pool1d, (2, 3, 6), (2,), {}),
    "max-2d": (F.max_pool2d, (2, 3, 5, 6), ((2, 3), 2, 1, (2, 1), True), {}),
    "max-2d-row": (torch.max_pool2d, (3, 5, 6), (2,), {"stride": ()}),
    "max-2d-indices": (F.max_pool2d, (2, 3, 4, 4), (2,), {"return_indices": True}),
    "max-3d": (F.max_pool3d, (2, 2, 4, 4, 4), (2,), {"stride": 1}),
    "avg-1d": (F.avg_pool1d, (2, 3, 6), (3, 2, 1, False, False), {}),
    "avg-2d": (F.avg_pool2d, (2, 3, 5, 6), ((2, 3),), {"divisor_override": 5}),
    "avg-3d": (F.avg_pool3d, (2, 2, 4, 4, 4), (2,), {"padding": 1, "ceil_mode": True}),
    "adaptive-avg-1d": (F.adaptive_avg_pool1d, (2, 3, 6), (4,), {}),
    "adaptive-avg-2d": (F.adaptive_avg_pool2d, (2, 3, 5, 6), ((1, None),), {}),
    "adaptive-avg-3d": (F.adaptive_avg_pool3d, (2, 4, 4, 4), (2,), {}),
    "adaptive-max-1d": (torch.adaptive_max_pool1d, (2, 3, 6), (4,), {}),
    "adaptive-max-2d": (F.adaptive_max_pool2d, (2, 3, 5, 6), ((2, 3),), {}),
    "adaptive-max-3d": (F.adaptive_max_pool3d, (2, 2, 4, 4, 4), (2,), {"return_indices": True}),
    "nearest": (F.interpolate, (2, 3, 4, 5), (), {"scale_factor": 2}),
    "bilinear": (
        F.interpolate,
        (2, 3, 4, 5),
        ((6, 7),),
        {"mode": "bilinear", "align_corners": True},
    ),
    "unfold": (F.unfold, (2, 3, 4, 5), ((2, 3),), {"padding": 1}),
}


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("name", IMAGES)
def test_pooling_is_torchs(name: str, dim: int | None) -> None:
    function, shape, args, options = IMAGES[name]
    sizes = list(shape)
    if dim is not None:
        sizes.insert(dim, B)
    rule = GRAPH[function]
    compare(
        # One input more, so that there is always something to map.
        lambda x, zero: rule(x, *args, **options),
        lambda x, zero: function(x, *args, **options),
        (draw(*sizes), torch.zeros(B, dtype=torch.int64)),
        (dim, 0),
    )


def test_every_name_of_a_pool_has_a_rule() -> None:
    x = draw(2, 3, 6)
    for function, expected in (
        (F.max_pool1d_with_indices, F.max_pool1d(x, 2, return_indices=True)),
        (F.adaptive_max_pool1d_with_indices, F.adaptive_max_pool1d(x, 2, return_indices=True)),
    ):
        close_or_none(GRAPH[function](x, 2), expected)


PLACES = torch.tensor([[2, 0, 1], [1, 1, 0]])
Put = Callable[..., Tensor]


def into(name: str, *args: Any, **options: Any) -> tuple[Put, Put]:
    """Return a rule and the function; those that write in place get a copy."""

    def call(function: Any) -> Put:
        def run(x: Tensor, index: Tensor, src: Tensor) -> Tensor:
            x = x * 1
            y = function(x, *args[:1], index, *(args[1:] or (src,)), **options)
            return x if name.endswith("_") else y

        return run

    function = getattr(Tensor, name)
    return call(GRAPH[function]), call(function)


PUTS: dict[str, tuple[Put, Put]] = {
    "scatter": into("scatter", 1),
    "scatter-number": into("scatter", 1, 3.0),
    "scatter-value": (
        lambda x, index, src: GRAPH[torch.scatter](x, 0, index, value=2.0),
        lambda x, index, src: torch.scatter(x, 0, index, value=2.0),
    ),
    "scatter_": into("scatter_", 1),
    "scatter_add": into("scatter_add", -1),
    "scatter_add_": into("scatter_add_", 0),
    "scatter_reduce": into("scatter_reduce", 1, reduce="amax", include_self=False),
    "scatter_reduce_": into("scatter_reduce_", 0, reduce="sum"),
    "gather": (
        lambda x, index, src: GRAPH[torch.gather](x, -1, index) * src,
        lambda x, index, src: torch.gather(x, -1, index) * src,
    ),
    "take_along_dim": (  # what has one row is repeated
        lambda x, index, src: GRAPH[torch.take_along_dim](x, index[:1], 1) * src[:1],
        lambda x, index, src: torch.take_along_dim(x, index[:1], 1) * src[:1],
    ),
    "take_along_all": (
        lambda x, index, src: GRAPH[Tensor.take_along_dim](x, index) * src.sum(),
        lambda x, index, src: torch.take_along_dim(x, index) * src.sum(),
    ),
}


@pytest.mark.parametrize("dims", [(0, 0, 0), (2, None, None), (0, None, 1), (None, 0, 0)], ids=str)
@pytest.mark.parametrize("name", PUTS)
def test_gather_and_scatter_are_torchs(name: str, dims: Any) -> None:
    if name.endswith("_") and dims[0] is None:
        pytest.skip("vmap refuses writes into a tensor that is not mapped; so do the rules")
    index = PLACES if dims[1] is None else torch.stack([PLACES, 2 - PLACES, PLACES.roll(1, 1)])
    x, src = [3, 3], [2, 3]
    for shape, dim in ((x, dims[0]), (src, dims[2])):
        if dim is not None:
            shape.insert(dim, B)
    args = [draw(*x), index, draw(*src)]
    compare(*PUTS[name], args, dims)


def test_what_the_rules_leave_to_torch() -> None:
    rule, x = GRAPH[torch.scatter], draw(3, 3)
    close_or_none(rule(x, 1, PLACES, x, reduce="add"), torch.scatter(x, 1, PLACES, x, reduce="add"))
    rule, row = GRAPH[torch.gather], draw()
    close_or_none(rule(row, 0, torch.tensor(0)), row)


class Images(nn.Module):
    """Each kind of rule once, between generated layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.max_pool2d(self.first(x).tanh(), 2), (2, 1))
        y = F.adaptive_avg_pool2d(x, (2, 2))
        y = self.last(F.interpolate(y, scale_factor=2.0)[..., :2]).flatten(1)
        order = y.detach().argsort(-1)
        return torch.zeros_like(y).scatter_add_(1, order, y.gather(1, order))


def pooled() -> nn.Module:
    """Return a target that compiles soon, of the inputs of `Images`."""
    parts = nn.Linear(6, 6), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2)
    return nn.Sequential(*parts)


@pytest.mark.parametrize(
    ("make", "backend"),
    [
        (pooled, "aot_eager"),
        pytest.param(Images, "aot_eager", marks=pytest.mark.slow),
        pytest.param(Images, "inductor", marks=pytest.mark.slow),
    ],
)
def test_one_graph_for_all_batch_sizes(make: Callable[[], nn.Module], backend: str) -> None:
    torch._dynamo.reset()
    hnet = hl.HyperNetwork(make().double(), condition=hl.Embedding(9, 3))
    known = [(draw(n, 2, 2, 6, 6), torch.arange(n)) for n in (4, 3, 7)]
    expected = [hnet(x, condition=ids) for x, ids in known]
    counter = CompileCounterWithBackend(backend)
    compiled: Any = torch.compile(hnet, backend=counter, fullgraph=True)
    for tensor in known[0]:  # the sizes of images stay numbers: that compiles sooner
        torch._dynamo.mark_dynamic(tensor, 0)
    parameters = list(hnet.parameters())
    for (x, ids), y in zip(known, expected, strict=True):
        found = compiled(x, condition=ids)
        torch.testing.assert_close(found, y, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            torch.autograd.grad(found.square().sum(), parameters),
            torch.autograd.grad(y.square().sum(), parameters),
            rtol=1e-9,
            atol=1e-9,
        )
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_graph_rules_hold_them_all() -> None:
    for function in (F.max_pool2d, F.adaptive_avg_pool2d, torch.gather, Tensor.scatter_):
        assert function in GRAPH
    assert F.conv2d not in GRAPH  # compilers know torch's own, with sizes that are symbols too
