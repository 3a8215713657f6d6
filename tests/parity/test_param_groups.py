"""`param_groups`: both backends divide the rates of the same arrays by the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flax import nnx

import hyperloom.jax as hlj
import hyperloom.torch as hlt

CHOICES: list[dict[str, Any]] = [
    {"trunk": hlt.MLP(8, 16), "layout": hlt.Chunked(5, 2)},
    {"layout": {"*bias": hlt.PerCondition(), "*": hlt.Full()}},
    {"layout": hlt.Shared()},
]


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_both_divide_the_same(choices: dict[str, Any]) -> None:
    condition = hlt.Embedding(4, 6)
    linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    hnet_j = hlj.HyperNetwork(linear, condition=condition, rngs=nnx.Rngs(1), **choices)
    rates, labels = hlj.param_groups(hnet_j, 1.0)
    found = labels(hlj.functional(hnet_j)[1])
    ours = {name.replace(".layers.", "."): rates[label] for name, label in found.items()}
    hnet_t = hlt.HyperNetwork(torch.nn.Linear(3, 2), condition=condition, **choices)
    groups = hlt.param_groups(hnet_t, 1.0)
    by_id = {id(p): group["lr"] for group in groups for p in group["params"]}
    theirs = {name: by_id[id(p)] for name, p in hnet_t.named_parameters()}
    divided = {name: rate for name, rate in ours.items() if rate != 1.0}
    assert divided == {name: rate for name, rate in theirs.items() if rate != 1.0}
    assert set(rates) == {group["name"] for group in groups}
