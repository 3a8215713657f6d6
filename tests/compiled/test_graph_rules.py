"""Functions that are written anew for graphs: the same numbers, and one graph for all batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import hyperloom.torch as hl
from hyperloom.torch._rules.graphs import functions
from hyperloom.torch._rules.registry import GRAPH

pytestmark = pytest.mark.filterwarnings("ignore")  # what torch.compile imports and does inside


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


ROWS = torch.tensor([2, 0, 2, 1])
CALLS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "cat": (torch.cat, ([draw(2, 3), draw(2, 3)],), {"dim": -1}),
    "cat-0": (torch.cat, ([draw(2, 3), draw(2, 3), draw(2, 3)],), {}),
    "cat-sizes": (torch.cat, ([draw(2, 3, 2), draw(2, 1, 2)], 1), {}),
    "cat-integers": (torch.cat, ([torch.arange(3), torch.arange(2)],), {}),
    "cat-dtypes": (torch.cat, ([draw(2), draw(2).float()],), {}),
    "concat-axis": (torch.concat, ([draw(2, 3), draw(2, 4)],), {"axis": 1}),
    "layer_norm": (F.layer_norm, (draw(3, 4), (4,)), {}),
    "layer_norm-2": (F.layer_norm, (draw(3, 2, 4), (2, 4), draw(2, 4), draw(2, 4), 0.1), {}),
    "layer_norm-half": (F.layer_norm, (draw(3, 4).bfloat16(), (4,), draw(4).bfloat16()), {}),
    "group_norm": (F.group_norm, (draw(3, 4, 2, 5), 2, draw(4), draw(4)), {"eps": 0.1}),
    "group_norm-rows": (F.group_norm, (draw(3, 4), 2), {}),
    "index_select": (torch.index_select, (draw(3, 4), 0, ROWS), {}),
    "index_select-1": (Tensor.index_select, (draw(2, 3, 4), 1, ROWS), {}),
    "index_add": (torch.index_add, (draw(3, 2), 0, ROWS, draw(4, 2)), {"alpha": 2}),
    "index_add-1": (Tensor.index_add, (draw(2, 3, 2), 1, ROWS, draw(2, 4, 2)), {}),
    "index_add-row": (Tensor.index_add, (draw(3), 0, ROWS, draw(4)), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_numbers_are_those_of_torch(name: str) -> None:
    function, args, kwargs = CALLS[name]
    expected = function(*args, **kwargs)
    tolerance = 1e-12 if expected.dtype == torch.float64 else 1e-2
    found = GRAPH[function](*args, **kwargs)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.tensor([[True, False, True], [False, False, False]])},
        {"attn_mask": draw(2, 3)},
    ],
    ids=["plain", "causal", "scale", "mask", "bias"],
)
def test_attention_is_that_of_torch(options: dict[str, Any]) -> None:
    q, k, v = draw(2, 2, 2, 4), draw(2, 2, 3, 4), draw(2, 2, 3, 5)
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    mask, rest = options.get("attn_mask"), {k: o for k, o in options.items() if k != "attn_mask"}
    found = functions.attention(q, k, v, mask, {"dropout_p": 0.0, "is_causal": False, **rest})
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class Attending(nn.Module):
    """Attention as many write it, with a look-up, two norms and a sum into few rows."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.norm, self.out = nn.Linear(4, 12), nn.LayerNorm(4), nn.Linear(8, 4)
        self.group = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.reshape(5, 2, 2).transpose(0, 1) for t in self.qkv(self.norm(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(5, 4)
        y = self.group(self.out(torch.cat([x, y], -1)))
        sums = torch.zeros(3, 4, dtype=y.dtype).index_add(0, torch.tensor([0, 2, 0, 1, 2]), y)
        return sums.index_select(0, torch.tensor([0, 1, 2, 0, 1]))


def test_one_graph_for_all_batch_sizes() -> None:
    torch._dynamo.reset()
    hnet = hl.HyperNetwork(Attending().double(), condition=hl.Embedding(9, 3))
    known = [(draw(n, 5, 4), torch.arange(n)) for n in (7, 6, 9)]
    expected = [hnet(x, condition=ids) for x, ids in known]
    counter = CompileCounter()
    compiled: Any = torch.compile(hnet, backend=counter, fullgraph=True, dynamic=True)
    for (x, ids), y in zip(known, expected, strict=True):
        torch.testing.assert_close(compiled(x, condition=ids), y, rtol=1e-9, atol=1e-9)
    assert counter.frame_count == 1
    torch._dynamo.reset()
