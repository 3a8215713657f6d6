"""A batch of conditions in one call is a Python loop over the conditions, in values and gradients.

Over the whole table of cases in float64, to 1e-9; for every layout in float32 too, to 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import hyperloom.torch as hl
from tests._support import compare
from tests._support.cases import FORMS, LAYOUTS, pick
from tests.on_torch.cases import CASES, TARGETS, Case

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
# One row of the table for each layout, for what does not depend on the other choices.
PER_LAYOUT = list({case.layout: case for case in CASES}.values())


close = partial(compare.close, scaled=True)  # each to its largest number: sums cancel


def grads(y: Tensor, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients of a fixed random functional of `y`."""
    weights = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(
        (y * weights).sum(), list(wanted.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(wanted, found, strict=True))


def reached(gradients: dict[str, Tensor]) -> set[str]:
    return {name for name, gradient in gradients.items() if bool((gradient != 0).any())}


def test_the_table_has_every_layout_on_every_target_and_every_pair() -> None:
    assert {(c.target, c.layout) for c in CASES} == {(t, lay) for t in TARGETS for lay in LAYOUTS}
    seen = set().union(*(case.pairs for case in CASES))
    assert ("form", "delta", "trunk", "module") in seen
    assert {form for _, form, *_ in (p for p in seen if p[0] == "form")} == set(FORMS)
    assert len(CASES) == len(set(CASES)) < 140


def _used(hnet: hl.HyperNetwork, name: str) -> bool:
    """Whether a learned tensor plays a part: with PerCondition or Shared alone, no vector does."""
    return bool(hnet.plan.widths) or not name.startswith("condition.")


def batch_equals_loop(case: Case, dtype: torch.dtype) -> None:
    hnet = case.build(dtype)
    x, conditions = case.inputs(3, dtype=dtype), case.conditions(3, dtype)
    y = hnet(x, condition=conditions)
    each = [hnet(x[i], condition=pick(conditions, i)) for i in range(3)]
    assert y.dtype == dtype
    close(y, torch.stack(each), TOLERANCE[dtype])
    parameters = dict(hnet.named_parameters())
    batched, looped = grads(y, parameters), grads(torch.stack(each), parameters)
    close(batched, looped, TOLERANCE[dtype])
    assert reached(batched) == reached(looped) == {n for n in parameters if _used(hnet, n)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_batch_equals_a_loop(case: Case) -> None:
    batch_equals_loop(case, torch.float64)


@pytest.mark.parametrize("case", PER_LAYOUT, ids=str)
def test_a_batch_equals_a_loop_in_float32(case: Case) -> None:
    batch_equals_loop(case, torch.float32)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_batch_equals_plain_modules(case: Case) -> None:
    hnet = case.build()
    x, conditions = case.inputs(3), case.conditions(3)
    tensors = {n: t.detach().requires_grad_() for n, t in hnet.generate(conditions).items()}
    y = hnet.run(tensors, x)
    plain = [hnet.instantiate(pick(conditions, i)) for i in range(3)]
    each = torch.stack([net(x[i]) for i, net in enumerate(plain)])
    close(hnet(x, condition=conditions), each)
    close(y, each)
    # The gradients of the generated tensors are those that the plain modules' parameters get.
    own = [dict(net.named_parameters()) for net in plain]
    flat = grads(each, {f"{i}.{n}": p for i, net in enumerate(own) for n, p in net.items()})
    expected = {n: torch.stack([flat[f"{i}.{n}"] for i in range(3)]) for n in tensors}
    close(grads(y, tensors), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_generate_is_batched_like_a_loop(case: Case) -> None:
    hnet, conditions = case.build(), case.conditions(4)
    each = [hnet.generate(pick(conditions, i)) for i in range(4)]
    made = hnet.generate(conditions)
    close(made, {n: torch.stack([tensors[n] for tensors in each]) for n in made})
    for name, value in made.items():
        assert value.shape == (4, *hnet.plan.spec[name].shape)


@pytest.mark.parametrize("case", PER_LAYOUT, ids=str)
def test_inputs_that_all_conditions_share(case: Case) -> None:
    hnet, x, conditions = case.build(), case.inputs(), case.conditions(3)
    y = hnet(x, condition=conditions, in_dims=None)
    close(y, torch.stack([hnet(x, condition=pick(conditions, i)) for i in range(3)]))


@pytest.mark.parametrize("case", PER_LAYOUT, ids=str)
def test_inputs_that_pair_at_another_dimension(case: Case) -> None:
    hnet, x, conditions = case.build(), case.inputs(3), case.conditions(3)
    y = hnet(x.movedim(0, 1).contiguous(), condition=conditions, in_dims=1)
    close(y, hnet(x, condition=conditions))


@pytest.mark.parametrize("case", PER_LAYOUT, ids=str)
def test_conditions_with_two_batch_dimensions(case: Case) -> None:
    hnet, x, flat = case.build(), case.inputs(2, 3), case.conditions(6)

    def grid(value: Any) -> Any:
        return tuple(map(grid, value)) if isinstance(value, tuple) else value.unflatten(0, (2, 3))

    y = hnet(x, condition=grid(flat))
    close(y.flatten(0, 1), hnet(x.flatten(0, 1), condition=flat))
    close(
        {n: v.flatten(0, 1) for n, v in hnet.generate(grid(flat)).items()},
        hnet.generate(flat),
    )


@pytest.mark.parametrize("case", PER_LAYOUT, ids=str)
def test_the_gradient_of_the_inputs(case: Case) -> None:
    if case.target == "tied":
        case = Case("mlp", case.layout, case.form, case.condition, case.trunk)
    hnet, conditions = case.build(), case.conditions(3)
    x = case.inputs(3).requires_grad_()
    batched = grads(hnet(x, condition=conditions), {"x": x})
    each = torch.stack([hnet(x[i], condition=pick(conditions, i)) for i in range(3)])
    close(batched, grads(each, {"x": x}))


@pytest.mark.parametrize("case", PER_LAYOUT, ids=str)
def test_generated_tensors_are_the_users_own(case: Case) -> None:
    """Writing into them changes nothing in the hypernetwork, and training it nothing in them."""
    hnet, one = case.build(), pick(case.conditions(2), 1)
    with torch.no_grad():
        made = hnet.generate(one)
        kept = {name: value.clone() for name, value in made.items()}
        assert not any(value.requires_grad for value in made.values())
        for value in made.values():
            value.zero_()
        close(hnet.generate(one), kept)
        made = hnet.generate(one)
        for parameter in hnet.parameters():
            parameter += 1
        close(made, kept)


def test_a_difference_of_one_condition_is_seen() -> None:
    hnet, x = CASES[0].build(), CASES[0].inputs(3)
    conditions = CASES[0].conditions(3)
    y = hnet(x, condition=conditions)
    with pytest.raises(AssertionError):
        close(y, torch.stack([hnet(x[i], condition=pick(conditions, 0)) for i in range(3)]))
    with pytest.raises(AssertionError):
        close(y + 1e-8, y)


def test_pairs_in_the_table_can_be_missing() -> None:
    assert not Case("mlp", "per-condition", "whole", "vector", "none").possible
    assert Case("mlp", "full", "whole", "vector", "none").possible
    assert isinstance(CASES[0].build(), hl.HyperNetwork)
