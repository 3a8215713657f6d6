"""The PyTorch executor against the NumPy oracle, which shares no code with it.

To 1e-6 in float32 and 1e-12 in float64, relative to the largest number of a tensor. The oracle
computes in float64 whatever the backend does. The tests at the end break the backend on purpose
and see the comparison fail.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom._core.choices.trunks import ACTIVATIONS
from hyperloom._core.reference import executor
from hyperloom.torch._generate import heads, numbers
from hyperloom.torch._tools.checkpoint import neutral_tensors
from tests._support import compare
from tests._support.cases import FORMS, LAYOUTS, pick
from tests._support.on_torch import shaken
from tests.on_torch.cases import CASES, TARGETS, Case, mlp

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
# The oracle cannot run modules of the user's own.
NEUTRAL = [case for case in CASES if "module" not in (case.condition, case.trunk)]


def check(hnet: hl.HyperNetwork, conditions: Any, num: int, dtype: torch.dtype) -> None:
    """Compare a batch of conditions, and the first of them alone, with the oracle."""
    arrays = {name: t.double().numpy() for name, t in neutral_tensors(hnet, with_base=True).items()}
    with torch.no_grad():
        made, alone = hnet.generate(conditions), hnet.generate(pick(conditions, 0))
    for i in range(num):
        one = pick(conditions, i)
        raw = tuple(map(_value, one)) if isinstance(one, tuple) else _value(one)
        expected = executor.generate(hnet.plan, arrays, raw)
        assert list(expected) == list(made) == [entry.tensor for entry in hnet.plan.entries]
        for name, value in expected.items():
            close_to_oracle(made[name][i], value, dtype)
            if i == 0:
                close_to_oracle(alone[name], value, dtype)


def close_to_oracle(actual: Tensor, expected: np.ndarray, dtype: torch.dtype) -> None:
    assert actual.dtype == dtype
    compare.close(actual, expected, TOLERANCE[dtype], scaled=True)


def _value(value: Any) -> Any:
    """Return a raw value of one condition as NumPy has it."""
    if isinstance(value, tuple):
        return tuple(map(_value, value))
    if value.dtype == torch.bool:  # a mask
        return value.numpy()
    return value.double().numpy() if value.is_floating_point() else int(value)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", NEUTRAL, ids=str)
def test_the_table_of_cases(case: Case, dtype: torch.dtype) -> None:
    check(case.build(dtype), case.conditions(4, dtype), 4, dtype)


def test_the_table_has_every_layout_form_and_target() -> None:
    assert {case.layout for case in NEUTRAL} == set(LAYOUTS)
    assert {case.form for case in NEUTRAL} == set(FORMS)
    assert {case.target for case in NEUTRAL} == set(TARGETS)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("norm", ["rms", "layer", None])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_norm(activation: str, norm: str | None, dtype: torch.dtype) -> None:
    trunk = hl.MLP(7, 1, 6, activation=activation, norm=norm)
    layout = hl.Chunked(9, embedding=3)
    target = mlp().to(dtype)
    hnet = hl.HyperNetwork(target, condition=hl.Vector(4), trunk=trunk, layout=layout)
    # Large inputs too: an oracle and a backend may part where a function saturates.
    check(shaken(hnet), torch.randn(3, 4, dtype=dtype) * 5, 3, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_conditions_that_were_added_later(layout: str) -> None:
    hnet = Case("mlp", layout, "whole", "embedding", "mlp-rms").build()
    hnet.add_conditions(2)
    hnet.add_conditions(1)
    check(shaken(hnet), torch.arange(8), 8, torch.float64)


def test_conditions_inside_conditions() -> None:
    inner = hl.Concat(hl.Vector(2), hl.Embedding(4, 3), hl.Noise(1))
    hnet = hl.HyperNetwork(
        mlp().double(),
        condition=hl.Concat(hl.Vector(3), inner),
        layout={"0.*": hl.PerCondition(), "*": hl.Chunked(5, 2, per_condition=True)},
    )
    a, b, c = (torch.randn(3, width, dtype=torch.float64) for width in (3, 2, 1))
    ids = torch.tensor([3, 0, 1])
    arrays = {name: t.numpy() for name, t in neutral_tensors(shaken(hnet), with_base=True).items()}
    made = hnet.generate((a, (b, ids, c)))
    for i in range(3):
        raw = (_value(a[i]), (_value(b[i]), _value(ids[i]), _value(c[i])))
        for name, value in executor.generate(hnet.plan, arrays, raw).items():
            close_to_oracle(made[name][i].detach(), value, torch.float64)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"condition": nn.Linear(3, 2)}, "plan: got Custom(2, name='Linear'"),
        ({"condition": hl.Vector(3), "trunk": nn.Linear(3, 2)}, "plan: got CustomTrunk(2"),
        ({"condition": hl.Vector(3), "trunk": hl.MLP(2, norm="batch")}, "plan: got MLP(2, norm="),
    ],
    ids=["condition", "trunk", "batch-norm"],
)
def test_what_the_oracle_cannot_run_is_refused(options: dict[str, Any], shown: str) -> None:
    hnet = hl.HyperNetwork(mlp(), **options)
    arrays = {name: t.numpy() for name, t in neutral_tensors(hnet, with_base=True).items()}
    with pytest.raises(TypeError) as error:
        executor.generate(hnet.plan, arrays, np.zeros(3))
    assert str(error.value).startswith(shown)
    assert "that NumPy can compute" in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", [2, 5, 8])
def test_the_tensors_of_another_template(layout: str, seed: int, tmp_path: Path) -> None:
    """Scales are measured on a template: they must come along with the learned tensors."""
    case = Case("mlp", layout, "whole", "embedding", "none")
    mine, other = case.build(seed=0), case.build(seed=seed)
    expected = other.generate(torch.arange(3))
    hl.save(other, tmp_path / "other.safetensors", with_base=True)
    mine.load(tmp_path / "other.safetensors")
    torch.testing.assert_close(mine.generate(torch.arange(3)), expected, rtol=0, atol=0)
    check(mine, torch.arange(3), 3, torch.float64)
    again = case.build(seed=0)
    # What is generated does not depend on what is kept: with the fingerprint of its own base.
    mark = {k: v for k, v in again.state_dict().items() if k == "base_fingerprint"}
    again.load_state_dict({**other.state_dict(), **mark})
    torch.testing.assert_close(again.generate(torch.arange(3)), expected, rtol=0, atol=0)


# ---- forms: the oracle and the backend share `assemble`, so here are the formulas again ---------


def _low_rank(base: Any, u: Any, v: Any) -> Any:
    return base + 3.0 / 2 * np.einsum("or,ri->oi", u, v)


def _directed(base: Any, u: Any, v: Any, g: Any) -> Any:
    changed = _low_rank(base, u, v)
    lengths = [np.sqrt(np.einsum("oi,oi->o", w, w)) for w in (base, changed)]
    return (1 + g) * (lengths[0] / lengths[1])[:, None] * changed


FORMULAS: list[tuple[Any, Callable[..., Any]]] = [
    (hl.Whole(), lambda base, part: part),
    (hl.Delta(), lambda base, part: base + part),
    (hl.LoRA(2, alpha=3.0), _low_rank),
    (hl.LoRA(4, alpha=3.0, rslora=True), lambda base, u, v: base + 3.0 / 2 * u @ v),
    (hl.DoRA(2, alpha=3.0), _directed),
    (hl.LowRank(2), lambda base, u, v: np.einsum("or,ri->oi", u, v)),
    (hl.Scale(), lambda base, s: np.einsum("oi,o->oi", base, 1 + s[:, 0])),
    (hl.Scale(inputs=True), lambda base, s: np.einsum("oi,i->oi", base, 1 + s[0])),
    (hl.Shift(), lambda base, s: base + np.outer(s[:, 0], np.ones(base.shape[1]))),
    (hl.RankOne(), lambda base, r, s: base * np.outer(1 + r[:, 0], 1 + s[0])),
    (hl.Templates(3), lambda bank, c: np.einsum("r,roi->oi", c.ravel(), bank)),
]


@pytest.mark.parametrize(("form", "formula"), FORMULAS, ids=[str(form) for form, _ in FORMULAS])
def test_forms_by_their_formulas(form: Any, formula: Callable[..., Any]) -> None:
    target = nn.Linear(3, 5, bias=False).double()
    hnet = shaken(hl.HyperNetwork(target, condition=hl.Vector(4), form=form))
    vector = torch.randn(4, dtype=torch.float64)
    arrays = {name: t.numpy() for name, t in neutral_tensors(hnet, with_base=True).items()}
    row = arrays["heads.full.weight"] @ vector.numpy() + arrays["heads.full.bias"]
    parts = []
    for piece in hnet.plan.entries[0].pieces:
        size = int(np.prod(piece.shape))
        parts.append(row[piece.start : piece.start + size].reshape(piece.shape))
    base = arrays.get("banks.0", arrays.get("bases.weight"))
    expected = formula(base, *parts)
    close_to_oracle(hnet.generate(vector)["weight"].detach(), expected, torch.float64)


# ---- drawn targets and layouts ------------------------------------------------------------------


class Drawn(nn.Module):
    """Tensors of any shape under any layers; some layers are norms, some tensors are tied."""

    def __init__(self, shapes: list[tuple[int, ...]], tied: bool) -> None:
        super().__init__()
        for i, shape in enumerate(shapes):
            layer = nn.Module()
            layer.weight = nn.Parameter(torch.randn(shape, dtype=torch.float64))
            layer.bias = nn.Parameter(torch.randn(shape[:1], dtype=torch.float64))
            self.add_module(f"layer{i}", layer)
        if tied:
            self.again = nn.Module()
            self.again.weight = self.get_submodule("layer0").weight

    def forward(self) -> None:
        """Only what is generated matters here."""


SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=4).map(tuple), min_size=1, max_size=4)
WIDTHS = st.integers(1, 3)
UNITS = st.one_of(
    st.just(hl.Tensors()),
    st.just(hl.Layers()),
    st.builds(hl.Tiles, st.integers(1, 9)),
    st.builds(hl.Largest, st.integers(1, 9)),
)
ANY_LAYOUT = st.one_of(
    st.just(hl.Full()),
    st.just(hl.PerCondition()),
    st.just(hl.Shared()),
    st.builds(hl.Chunked, st.integers(1, 40), WIDTHS, st.booleans(), st.booleans()),
    st.builds(hl.Grouped, WIDTHS, UNITS, st.booleans()),
)
ANY_MIX = st.tuples(ANY_LAYOUT, ANY_LAYOUT).map(lambda two: {"*.weight": two[0], "*": two[1]})
ANY_TRUNK = st.one_of(
    st.none(),
    st.builds(
        hl.MLP, WIDTHS, WIDTHS, activation=st.sampled_from(ACTIVATIONS), norm=st.just("layer")
    ),
    st.builds(hl.MLP, WIDTHS, activation=st.sampled_from(ACTIVATIONS)),
)
ANY_CONDITION = st.sampled_from(
    [hl.Embedding(3, 2), hl.Concat(hl.Noise(2), hl.Embedding(3, 1), hl.Vector(3))]
)


@given(
    SHAPES,
    st.booleans(),
    st.one_of(ANY_LAYOUT, ANY_MIX),
    st.sampled_from([hl.Whole(), hl.Delta(), hl.Delta(trained=True), {"*t": hl.Delta()}]),
    ANY_TRUNK,
    ANY_CONDITION,
)
def test_drawn_targets_and_layouts(
    shapes: list[tuple[int, ...]], tied: bool, layout: Any, form: Any, trunk: Any, condition: Any
) -> None:
    hnet = hl.HyperNetwork(
        Drawn(shapes, tied), condition=condition, trunk=trunk, layout=layout, form=form
    )
    ids = torch.tensor([2, 0])
    conditions: Any = ids
    if isinstance(condition, hl.Concat):
        noise, vectors = (torch.randn(2, width, dtype=torch.float64) for width in (2, 3))
        conditions = (noise, ids, vectors)
    check(shaken(hnet), conditions, 2, torch.float64)


# ---- the comparison can fail --------------------------------------------------------------------

BROKEN = [Case("cnn", layout, "whole", "embedding+vector", "mlp-layer") for layout in LAYOUTS]


def _off_by_one(cut: Any) -> Any:
    def broken(plan: Any, raw: list[Tensor]) -> list[Tensor]:
        return cut(plan, [numbers.roll(-1, -1) for numbers in raw])

    return broken


def _axes_swapped(cut: Any) -> Any:
    def broken(plan: Any, raw: list[Tensor]) -> list[Tensor]:
        parts = cut(plan, raw)
        return [p.mT if p.ndim >= 2 and p.shape[-1] == p.shape[-2] else p for p in parts]

    return broken


@pytest.mark.parametrize("fault", [_off_by_one, _axes_swapped])
@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.layout)
def test_numbers_in_the_wrong_place_are_seen(
    case: Case, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hnet, conditions = case.build(), case.conditions(3)
    check(hnet, conditions, 3, torch.float64)
    monkeypatch.setattr(numbers, "cut", fault(numbers.cut))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(hnet, conditions, 3, torch.float64)


def test_a_forgotten_scale_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("mlp", "chunked", "whole", "vector", "none")
    hnet, conditions = case.build(), case.conditions(2)
    monkeypatch.setattr(heads.LinearHead, "_scaled", lambda self, features, _: self(features))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(hnet, conditions, 2, torch.float64)


def test_a_wrong_slot_embedding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("mlp", "chunked", "whole", "vector", "none")
    hnet, conditions = case.build(), case.conditions(2)
    right = heads.LinearHead.slot_embeddings
    monkeypatch.setattr(
        heads.LinearHead, "slot_embeddings", lambda *given: right(*given).roll(1, 0)
    )
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(hnet, conditions, 2, torch.float64)


def test_an_activation_that_is_almost_right_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    hnet = hl.HyperNetwork(mlp(), condition=hl.Vector(3), trunk=hl.MLP(5, activation="gelu"))
    conditions = torch.randn(2, 3)
    check(hnet, conditions, 2, torch.float32)
    layer: Any = hnet.get_submodule("trunks.0.0")
    monkeypatch.setattr(layer, "activation", lambda x: F.gelu(x, approximate="tanh"))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(hnet, conditions, 2, torch.float32)
