"""The door against hypnettorch 0.0.4: the same numbers give the same everything."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.compat.hypnettorch_building import LISTS, PROPERTIES, Case, assert_close, pair
from tests.compat.hypnettorch_cases import CASES

theirs = pytest.importorskip("hypnettorch.hnets")

# With shared tensors from outside, 0.0.4 forgets to count them before those of conditions, so that
# its references do not fit the shapes. Ours do; the test below says so of every case.
WRONG_THERE = ("HContainer-mixed-shared-from-outside", "internal_params_ref")


def held_shapes(hnet: Any) -> list[list[int]]:
    return [list(p.shape) for p in hnet.internal_params]


def test_the_table_is_large() -> None:
    assert len(CASES) >= 60
    assert len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_properties_and_state(case: Case) -> None:
    other, mine = pair(case, theirs)
    for name in PROPERTIES:
        if (str(case), name) == WRONG_THERE:
            assert [other.param_shapes[i] for i in other.internal_params_ref] != held_shapes(other)
            continue
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
    if mine.internal_params is not None:
        assert [mine.param_shapes[i] for i in mine.internal_params_ref] == held_shapes(mine)
    assert mine.distillation_targets() is None


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs(case: Case, num: int) -> None:
    other, mine = pair(case, theirs)
    inputs = case.inputs(num, other)
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
    flats, grads = [], []
    for hnet in (other, mine):
        inputs = case.inputs(3, other)
        torch.manual_seed(7)
        flats.append(hnet.forward(ret_format="flattened", **inputs))
        torch.manual_seed(8)
        (flats[-1] * torch.randn_like(flats[-1])).sum().backward()
        held = [*(hnet.internal_params or ()), *inputs.get("weights", ())]
        grads.append([p.grad for p in held])
    assert_close(flats[1], flats[0])
    assert any(grad is not None for grad in grads[0])
    for i, (b, a) in enumerate(zip(*grads, strict=True)):
        # What a call does not use has no gradient, in both: optimisers tell it from zero.
        assert (a is None) == (b is None), i
        if a is not None and b is not None:
            assert_close(a, b)


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
    if not case.outside:  # one kind only, where the hypernetwork holds the other
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
