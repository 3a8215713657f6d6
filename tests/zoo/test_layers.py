"""Every layer of torch.nn with parameters: a batch of conditions equals the loop."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from torch import nn

import hyperloom.torch as hl
from hyperloom.torch._rules.hidden import NotAtOnceError
from tests.zoo.checks import (
    IDS,
    NUM,
    batch_equals_loop,
    compare,
    frozen_copy,
    hypernetwork,
    tensors,
    unchanged,
)
from tests.zoo.classes import LEFT_OUT, WITHOUT_PARAMETERS, classes, reason
from tests.zoo.layers import LAYERS, Layer

pytestmark = [
    # What runs one condition after the other says so; here only the numbers matter.
    pytest.mark.filterwarnings("ignore::hyperloom._core.choices.execution.SlowWarning"),
    pytest.mark.filterwarnings("ignore:target. .*running statistics"),
]

ROWS = [
    pytest.param(row, train, id=f"{name}-{i}-{'train' if train else 'eval'}")
    for name, rows in LAYERS.items()
    for i, row in enumerate(rows)
    for train in (True, False)
]


@pytest.mark.parametrize(("row", "train"), ROWS)
def test_a_batch_equals_the_loop(row: Layer, train: bool) -> None:
    dtype = torch.float32 if row.single else torch.float64
    torch.manual_seed(1)
    target = row.make().to(dtype).train(train)
    before = frozen_copy(target)
    hnet = hypernetwork(target).train(train)
    inputs = row.inputs(NUM, dtype=dtype)
    batch_equals_loop(hnet, inputs, tolerance=1e-5 if row.single else 1e-9)
    unchanged(target, before)


def test_on_rows_a_batch_equals_the_loop_or_is_refused() -> None:
    """Rows of batches that meet, or inputs without rows, are refused; nothing else may differ."""
    equal = 0
    for row in (row for rows in LAYERS.values() for row in rows):
        dtype = torch.float32 if row.single else torch.float64
        torch.manual_seed(1)
        hnet = hypernetwork(row.make().to(dtype).eval()).eval()
        inputs, found = row.inputs(NUM, dtype=dtype), {}
        for strategy in ("loop", "rows"):
            hnet.execution = hl.Execution(strategy=strategy)
            try:
                found[strategy] = tensors(hnet(*inputs, condition=list(IDS)))
            except NotAtOnceError:
                assert strategy == "rows"
        if "rows" in found:
            names = [str(i) for i in range(len(found["loop"]))]
            compare(found["rows"], found["loop"], 1e-5 if row.single else 1e-9, names)
            equal += 1
    assert equal > 80


@pytest.mark.parametrize("name", LAYERS)
def test_entries_make_the_class_that_they_stand_for(name: str) -> None:
    cls = classes()[name]
    for row in LAYERS[name]:
        target = row.make()
        # A lazy layer is an ordinary one after its first call.
        plain = [base for base in cls.__mro__ if base is not cls] if "Lazy" in name else [cls]
        hooked = "older" in row.note  # no module of its own: a hook on the layer
        assert hooked or any(isinstance(part, tuple(plain)) for part in target.modules())
        assert list(target.parameters())


def test_every_class_is_in_the_table() -> None:
    missing = [
        name
        for name in classes()
        if name not in LAYERS and name not in WITHOUT_PARAMETERS and not reason(name)
    ]
    assert not missing, (
        f"torch {torch.__version__} has module classes that the zoo does not know: {missing}. Add "
        "each to LAYERS in tests/zoo/layers.py (with arguments and inputs), or, in "
        "tests/zoo/classes.py, to WITHOUT_PARAMETERS or (with a reason) to LEFT_OUT; then run "
        "`HYPERLOOM_REGENERATE=1 python -m pytest tests/zoo` to renew docs/zoo.md."
    )


def test_a_new_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = type("Fresh", (nn.Module,), {"__module__": "torch.nn.modules.linear"})
    monkeypatch.setattr(nn.modules.linear, "Fresh", fresh, raising=False)
    with pytest.raises(AssertionError, match=r"\['Fresh'\]. Add each to LAYERS"):
        test_every_class_is_in_the_table()


def test_nothing_in_the_table_is_gone() -> None:
    known = classes()
    assert not [n for n in (*LAYERS, *WITHOUT_PARAMETERS) if n not in known]
    assert not [key for key in LEFT_OUT if not any(reason(n) == LEFT_OUT[key] for n in known)]
    assert not set(LAYERS) & WITHOUT_PARAMETERS
    assert not [name for name in LAYERS if reason(name)]


@pytest.mark.parametrize("name", sorted(WITHOUT_PARAMETERS))
def test_classes_without_parameters_have_none(name: str) -> None:
    """By their source: nothing in `__init__`, theirs or inherited, makes a parameter."""
    for base in classes()[name].__mro__:
        if base in (nn.Module, object):
            return
        source = inspect.getsource(base)
        assert "Parameter(" not in source.replace("UninitializedParameter(", "Parameter(")
        assert "register_parameter(" not in source


def test_a_lazy_layer_before_its_first_call_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # once a process: "under heavy development"
        target = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(TypeError, match="Run the target once"):
        hl.HyperNetwork(target, condition=hl.Embedding(2, 3))
