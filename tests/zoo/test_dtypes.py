"""Autocast, half and double precision: outputs have the dtypes of the plain module's.

Every layer of the table, as one condition and as a batch. What the plain module itself refuses in a
dtype is left out of that dtype, and counted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tests.zoo.checks import IDS, NUM, hypernetwork, pick, tensors
from tests.zoo.layers import LAYERS, Layer

pytestmark = [
    # Of layers that run one condition after the other, and of kernels that a dtype lacks.
    pytest.mark.filterwarnings("ignore"),
]

# Relative to the largest output. Half precision keeps 3 (bf16) or 4 digits (fp16).
TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-6}


def autocast(dtype: torch.dtype) -> Any:
    return torch.autocast("cpu", dtype=dtype)


def parameters(dtype: torch.dtype) -> Any:
    return nullcontext()


WAYS: dict[str, tuple[Callable[[torch.dtype], Any], torch.dtype, torch.dtype]] = {
    # name: what is around the call, its dtype, dtype of the target
    "autocast-bf16": (autocast, torch.bfloat16, torch.float32),
    "autocast-fp16": (autocast, torch.float16, torch.float32),
    "parameters-bf16": (parameters, torch.bfloat16, torch.bfloat16),
    "parameters-fp16": (parameters, torch.float16, torch.float16),
    "float64": (parameters, torch.float64, torch.float64),
}


def as_dtype(tree: Any, dtype: torch.dtype) -> Any:
    def convert(leaf: Any) -> Any:
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.to(dtype) if floating else leaf

    return tree_map(convert, tree)


class LackingError(Exception):
    """This processor has no kernel for a dtype that others have one for."""


def plain(module: nn.Module, inputs: Any, around: Any) -> list[Tensor] | None:
    """Run a plain module; `None` where it fails in the dtype, or gives NaN."""
    try:
        with around:  # with gradients: without, attention layers take another path
            found = tensors(copy.deepcopy(module)(*inputs))
    except (RuntimeError, NotImplementedError, ValueError) as error:
        if "primitive" in str(error):  # of oneDNN, which goes by the processor
            raise LackingError from error
        return None
    return found if all(bool(out.isfinite().all()) for out in found) else None


def compare(ours: list[Tensor], theirs: list[Tensor], dtype: torch.dtype) -> None:
    assert [t.dtype for t in ours] == [t.dtype for t in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert one.shape == two.shape
        size = max(1.0, float(two.double().abs().max())) if two.numel() else 1.0
        difference = float((one.double() - two.double()).abs().max()) if two.numel() else 0.0
        assert difference <= TOLERANCE[dtype] * size


def check(row: Layer, way: str) -> bool:
    """Compare one layer in one way; return whether there was anything to compare with."""
    make_context, dtype, of_target = WAYS[way]
    torch.manual_seed(1)
    target = row.make().to(of_target).eval()
    inputs = as_dtype(row.inputs(NUM, dtype=torch.float32), of_target)
    hnet = hypernetwork(target).eval()
    assert all(value.dtype == of_target for value in hnet.generate(0).values())
    each: list[list[Tensor]] = []
    for i, condition in enumerate(IDS):
        own = pick(inputs, i)
        found = plain(hnet.instantiate(condition), own, make_context(dtype))
        if found is None:
            return False
        each.append(found)
        with make_context(dtype):
            compare(tensors(hnet(*own, condition=condition)), found, dtype)
    loop = [torch.stack(list(outs)) for outs in zip(*each, strict=True)]
    with make_context(dtype):
        batch = tensors(hnet(*inputs, condition=list(IDS)))
    compare(batch, loop, dtype)
    trained = [out for out in batch if out.requires_grad]
    total = torch.stack([out.double().sum() for out in trained]).sum()
    grads = torch.autograd.grad(total, list(hnet.parameters()), allow_unused=True)
    assert any(g is not None and bool(g.isfinite().all()) for g in grads)
    return True


_QUANTIZABLE = {"quantizable.LSTM", "quantizable.LSTMCell"}  # their initial state is float32

# Where the plain module fails: torch has no kernel, or mixes dtypes.
NONE_THERE: dict[str, set[str]] = {
    "autocast-bf16": {"AdaptiveLogSoftmaxWithLoss"},
    "autocast-fp16": {"AdaptiveLogSoftmaxWithLoss"},
    "parameters-bf16": _QUANTIZABLE,
    "parameters-fp16": _QUANTIZABLE,
    "float64": _QUANTIZABLE,
}


def _ways() -> list[Any]:
    return [pytest.param(name, way, id=f"{name}-{way}") for name in LAYERS for way in WAYS]


@pytest.mark.parametrize(("name", "way"), _ways())
def test_outputs_have_the_dtypes_of_the_plain_module(name: str, way: str) -> None:
    done: list[bool] = []
    lacking = False
    for row in LAYERS[name]:
        try:
            done.append(check(row, way))
        except LackingError:
            hnet = hypernetwork(row.make())  # ours may do it all the same, and must not crash
            with WAYS[way][0](WAYS[way][1]):
                assert tensors(hnet(*row.inputs(NUM, dtype=torch.float32), condition=list(IDS)))
            lacking = True
    expected = name not in NONE_THERE[way]
    assert any(done) == expected or lacking, (
        f"NONE_THERE[{way!r}] should {'not ' if expected else ''}have it"
    )
