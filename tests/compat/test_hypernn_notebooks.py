"""The programs of hyper-nn's notebooks through the door: the numbers that hyper-nn gives."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch

from hyperloom.compat.hypernn import torch as door
from hyperloom.compat.hypernn.torch import dynamic_hypernet, utils
from tests.compat.hypernn_notebooks_torch import PROGRAMS

hypernn = pytest.importorskip("hypernn.torch")
# hyper-nn's own use of what torch no longer likes, and of what vmap has no rule for.
pytestmark = [
    pytest.mark.filterwarnings("ignore:We've integrated functorch:FutureWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_numbers_are_hypernns(name: str) -> None:
    starts: list[Any] = []
    torch.manual_seed(0)
    wanted = PROGRAMS[name](hypernn, lambda net: starts.append(copy.deepcopy(net.state_dict())))
    given = iter(starts)

    def load(net: Any) -> None:
        own = net.state_dict()
        start = next(given)
        assert {k for k in start if "dummy" not in k} <= set(own)
        net.load_state_dict({**own, **start})

    torch.manual_seed(0)
    found = PROGRAMS[name](door, load)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6)


def test_imports_are_those_of_the_notebooks() -> None:
    for module, names in {
        "torch": ("TorchHyperNetwork", "TorchLinearHyperNetwork", "TorchDynamicHyperNetwork"),
        "torch.dynamic_hypernet": ("TorchDynamicHyperNetwork",),
        "torch.utils": ("get_weight_chunk_dims", "count_params", "FunctionalParamVectorWrapper"),
        "jax": ("JaxHyperNetwork", "JaxLinearHyperNetwork", "JaxDynamicHyperNetwork"),
        "jax.dynamic_hypernet": ("JaxDynamicHyperNetwork",),
        "jax.utils": ("count_jax_params", "get_weight_chunk_dims"),
    }.items():
        found = importlib.import_module(f"hyperloom.compat.hypernn.{module}")
        assert [name for name in names if not hasattr(found, name)] == []


def test_helpers_count_as_hypernns() -> None:
    theirs = importlib.import_module("hypernn.torch.utils")
    for num, chunks in ((4192, 32), (4193, 32), (1, 3), (59, 59), (60, 59)):
        wanted = theirs.get_weight_chunk_dims(num, chunks)
        assert utils.get_weight_chunk_dims(num, chunks) == wanted
    target = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Conv1d(2, 3, 2))
    assert utils.count_params(target) == theirs.count_params(target)
    flat, x = torch.randn(16), torch.randn(2, 3)
    linear = torch.nn.Linear(3, 4)
    ours = utils.FunctionalParamVectorWrapper(linear)
    given = theirs.FunctionalParamVectorWrapper(linear)
    torch.testing.assert_close(ours(flat, x), given(flat, x))
    assert ours.target_weight_shapes == given.target_weight_shapes


class Cells(dynamic_hypernet.TorchDynamicHyperNetwork):
    """`generate_params` takes two of the target's three inputs, the third is its state."""

    seen: Any = None

    def generate_params(self, x: Any, y: Any = None, hidden_state: Any = None) -> Any:  # type: ignore[override]
        self.seen = (x, y, hidden_state)
        return super().generate_params(x, hidden_state)


@pytest.mark.parametrize(
    ("inputs", "named", "seen"),
    [
        (1, {}, "x--"),  # the README: inputs are handed on
        (2, {}, "xy-"),
        (1, {"hidden_state": "h"}, "x-h"),  # and keywords beside them
        (2, {"hidden_state": "h"}, "xyh"),
        (1, {"x": "a"}, "a--"),  # the release: keywords alone
        (2, {"x": "a"}, "a--"),
        (3, {"x": "a", "y": "b"}, "ab-"),  # not the third input as the state
        (3, {"x": "a", "hidden_state": "h"}, "a-h"),
    ],
)
def test_what_keywords_name_the_inputs_do_not(
    inputs: int, named: dict[str, str], seen: str
) -> None:
    class Target(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(6, 4)

        def forward(self, *inputs: Any) -> Any:
            return self.linear(inputs[0])

    net = Cells(6, Target(), embedding_dim=3, num_embeddings=2)
    values = {key: torch.randn(1, 6) for key in "xyzab"}
    values["h"] = torch.zeros(1, 2)
    more = {key: values[value] for key, value in named.items()}
    net(*[values[key] for key in "xyz"[:inputs]], generate_params_kwargs=more)
    for got, wanted in zip(net.seen, seen, strict=True):
        assert got is (None if wanted == "-" else values[wanted])
