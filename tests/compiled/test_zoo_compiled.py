"""torch.compile around hypernetworks of the zoo's targets, with graphs counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.exc import InternalTorchDynamoError, Unsupported
from torch._dynamo.testing import CompileCounter
from torch.func import vmap

import hyperloom.torch as hl
from tests.zoo.blocks import BLOCKS
from tests.zoo.checks import hypernetwork, tensors
from tests.zoo.test_blocks import small_cnn, small_transformer

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what torch.compile imports and does inside
]
Inputs = Callable[..., tuple[Any, ...]]


def _rows(*shape: int) -> Inputs:
    return lambda *lead, dtype: (torch.randn(*lead, *shape, dtype=dtype),)


def normed_mlp() -> nn.Module:
    layers = nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2)
    return nn.Sequential(*layers)


TARGETS: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "mlp": (normed_mlp, _rows(5, 4)),
    "transformer": (small_transformer, _rows(2, 5, 4)),
    "cnn": (small_cnn, _rows(4, 3, 8, 8)),
    "gru": (lambda: nn.GRU(4, 3), _rows(2, 2, 4)),
    **{name: (make, inputs) for name, (make, inputs, _) in BLOCKS.items()},
}
FAST = ("gru",)
# A graph for each number of conditions, as in plain `vmap`: compilers fix the number of groups.
CONVOLUTIONAL = ("cnn", "U-Net (diffusion)", "ResNet")


def each(names: Any) -> list[Any]:
    """Return parameters; the default suite takes only the fast ones."""
    slow = pytest.mark.slow
    return [pytest.param(name, marks=[] if name in FAST else [slow], id=name) for name in names]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):  # else Dynamo refuses `nn.GRU` by its class
        yield
    torch._dynamo.reset()


def made(name: str) -> tuple[hl.HyperNetwork, Inputs]:
    make, inputs = TARGETS[name]
    torch.manual_seed(1)
    target = make().double().eval()
    return hypernetwork(target, condition=hl.Embedding(9, 3), trunk=hl.MLP(6)), inputs


def calls(hnet: hl.HyperNetwork, inputs: Inputs, batches: list[list[int]]) -> list[Any]:
    """Return inputs, ids and the outputs of eager mode for each batch of ids.

    All before anything is compiled: an eager call remembers how it was run, and a graph that is
    older than that is compiled once more.
    """
    made = []
    for ids in map(torch.tensor, batches):
        x = inputs(len(ids), dtype=torch.float64)
        made.append((x, ids, tensors(hnet(*x, condition=ids))))
    return made


def same(compiled: Any, call: Any) -> None:
    x, ids, expected = call
    torch.testing.assert_close(tensors(compiled(*x, condition=ids)), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow  # those that are there for the default suite change the values too
@pytest.mark.parametrize("name", each(TARGETS))
def test_new_condition_values_compile_nothing(name: str) -> None:
    hnet, inputs = made(name)
    known = calls(hnet, inputs, [[0, 1, 2], [5, 2, 0], [8, 3, 4]])
    counter = CompileCounter()
    compiled = torch.compile(hnet, backend=counter, fullgraph=True, dynamic=False)
    for call in known:
        same(compiled, call)
        assert counter.frame_count == 1


@pytest.mark.parametrize("name", each(TARGETS))
def test_new_batch_sizes_compile_nothing_with_dynamic_shapes(name: str) -> None:
    """But for convolutions, which compile once for each number of conditions."""
    hnet, inputs = made(name)
    # torch.compile takes sizes that are equal in the first call for one: no other size is 7.
    known = calls(
        hnet, inputs, [[*range(num)][::step] for num, step in ((7, 1), (4, -1), (6, 1), (5, -1))]
    )
    counter = CompileCounter()
    compiled = torch.compile(hnet, backend=counter, fullgraph=True, dynamic=True)
    for numbers, call in enumerate(known, start=1):
        same(compiled, call)
        assert counter.frame_count == (numbers if name in CONVOLUTIONAL else 1)


@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_recurrent_modules_break_the_graph_unless_dynamo_is_allowed_to_trace_them(
    whole: bool,
) -> None:
    """With `fullgraph` it is said; without, the results are right."""
    hnet, inputs = made("gru")
    (call,) = calls(hnet, inputs, [[0, 1, 2]])
    compiled = torch.compile(hnet, backend=CompileCounter(), fullgraph=whole)
    with torch._dynamo.config.patch(allow_rnn=False):
        if not whole:
            same(compiled, call)
            return
        with pytest.raises((Unsupported, InternalTorchDynamoError), match="does not support RNN"):
            same(compiled, call)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        pytest.param(
            lambda x, w: F.max_pool2d(x * w, 2),
            ((2, 3, 4, 4), (2, 3, 4, 4)),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda x, w: w.gather(0, (x > 0).long()), ((2, 5), (6, 5)), marks=pytest.mark.slow
        ),
        pytest.param(
            lambda x, w: F.scaled_dot_product_attention(x, w, w),
            ((2, 3, 6, 5), (2, 3, 6, 5)),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["pool", "gather", "attention"],
)
def test_the_fixed_batch_sizes_are_torchs(function: Any, shapes: Any) -> None:
    """Without hyperloom. When torch no longer does, its rule in the graph files can go."""
    counter = CompileCounter()

    def call(x: Tensor, w: Tensor) -> Any:
        return vmap(function)(x, w)

    compiled = torch.compile(call, backend=counter, fullgraph=True, dynamic=True)
    for num in (7, 8):
        compiled(*(torch.randn(num, *shape) for shape in shapes))
    assert counter.frame_count == 2
