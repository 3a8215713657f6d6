"""The door against hypnettorch 0.0.4: the same numbers give the same everything."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.compat.hypnettorch_cases import (
    CASES,
    LISTS,
    PROPERTIES,
    Case,
    assert_close,
    pair,
)

theirs = pytest.importorskip("hypnettorch.hnets")


def test_the_table_is_large() -> None:
    assert len(CASES) >= 60
    assert len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_properties_and_state(case: Case) -> None:
    other, mine = pair(case, theirs)
    for name in PROPERTIES:
        assert getattr(mine, name, "absent") == getattr(other, name, "absent"), name
    for name in LISTS:
        found, wanted = getattr(mine, name, ()), getattr(other, name, ())
        assert (found is None) == (wanted is None), name
        assert len(found or ()) == len(wanted or ()), name
        if "params" in name or "layer_" in name:
            assert [p.shape for p in found or ()] == [p.shape for p in wanted or ()], name
    assert set(mine.state_dict()) == set(other.state_dict())
    held = {id(p) for p in mine.internal_params or ()}
    assert len(held) == len(mine.internal_params or ())
    assert held <= {id(p) for p in mine.parameters()}
    assert mine.distillation_targets() is None


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs(case: Case, num: int) -> None:
    other, mine = pair(case, theirs)
    inputs = case.inputs(num)
    if case.stats:  # batch norm needs a batch
        other.eval()
        mine.eval()
    for ret_format in ("flattened", "sequential", "squeezed"):
        torch.manual_seed(5)
        wanted = other.forward(ret_format=ret_format, **inputs)
        torch.manual_seed(5)
        made = mine.forward(ret_format=ret_format, **inputs)
        assert_same_structure(made, wanted)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case: Case) -> None:
    other, mine = pair(case, theirs)
    inputs = case.inputs(3)
    flats = []
    for hnet in (other, mine):
        torch.manual_seed(7)
        flats.append(hnet.forward(ret_format="flattened", **inputs))
    weight = torch.randn_like(flats[0])
    for flat in flats:
        (flat * weight).sum().backward()
    assert_close(flats[1], flats[0])
    pairs = zip(mine.internal_params or (), other.internal_params or (), strict=True)
    for i, (a, b) in enumerate(pairs):
        # What a call does not use has no gradient, in both: optimisers tell it from zero.
        assert (a.grad is None) == (b.grad is None), i
        if a.grad is not None and b.grad is not None:
            assert_close(a.grad, b.grad)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_from_outside(case: Case) -> None:
    other, mine = pair(case, theirs)
    inputs = case.inputs(2)
    if case.stats:
        other.eval()
        mine.eval()
    generator = torch.Generator().manual_seed(3)
    given = [torch.randn(s, generator=generator) for s in other.param_shapes]
    uncond = [given[i] for i in other.unconditional_param_shapes_ref]
    cond = [given[i] for i in other.conditional_param_shapes_ref]
    every: list[Any] = [given, {"uncond_weights": uncond, "cond_weights": cond}]
    every += [{"uncond_weights": uncond}] if uncond else []
    every += [{"cond_weights": cond}] if cond else []
    for weights in every:
        torch.manual_seed(9)
        wanted = other.forward(weights=weights, ret_format="flattened", **inputs)
        torch.manual_seed(9)
        made = mine.forward(weights=weights, ret_format="flattened", **inputs)
        assert_close(made, wanted)


def assert_same_structure(made: Any, wanted: Any) -> None:
    assert type(made) is type(wanted)
    if isinstance(wanted, torch.Tensor):
        assert made.shape == wanted.shape
        assert_close(made, wanted)
        return
    assert len(made) == len(wanted)
    for a, b in zip(made, wanted, strict=True):
        assert_same_structure(a, b)
