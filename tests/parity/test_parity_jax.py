"""The JAX executor against the NumPy oracle and the PyTorch executor, on the same parameters.

To 1e-6 in float32 and 1e-12 in float64, relative to the largest number of a tensor. PyTorch runs
the plan of the JAX hypernetwork, read from its checkpoint.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import hyperloom.jax as hj
import hyperloom.torch as ht
from hyperloom import TargetSpec
from hyperloom._core.choices.trunks import ACTIVATIONS
from hyperloom._core.reference import executor
from hyperloom.jax._generate import heads, numbers
from hyperloom.jax._tools.checkpoint import neutral_tensors
from hyperloom.torch._tools.checkpoint import neutral_tensors as torch_tensors
from tests._support import compare
from tests._support.cases import FORMS, LAYOUTS, TARGETS, pick
from tests._support.on_jax import shaken
from tests.on_jax.cases import CASES, LINEN, Case, mlp
from tests.on_jax.test_batch_equals_loop import cover

# The oracle cannot run modules of the user's own.
NEUTRAL = [case for case in (*CASES, *LINEN) if "module" not in (case.condition, case.trunk)]
FEW = cover(NEUTRAL)
ALL = [*FEW, *(pytest.param(c, marks=pytest.mark.slow) for c in NEUTRAL if c not in FEW)]
NUM = 3


def stub(spec: TargetSpec) -> nn.Module:
    """Return a PyTorch module with a target's tensors under the same names."""
    root = nn.Module()
    for tensor in spec:
        value = nn.Parameter(torch.zeros(tensor.shape, dtype=getattr(torch, tensor.dtype)))
        for name in tensor.names:
            node, (*path, leaf) = root, name.split(".")
            for step in path:
                if step not in node._modules:
                    node.add_module(step, nn.Module())
                node = node.get_submodule(step)
            node.register_parameter(leaf, value)
    return root


def check(hnet: hj.HyperNetwork, conditions: Any, tolerance: float, path: Path | None) -> None:
    """Compare a batch of conditions with the oracle, and through a file with PyTorch."""
    arrays = {
        name: np.asarray(v, np.float64) for name, v in neutral_tensors(hnet, with_base=True).items()
    }
    made = {n: np.asarray(v) for n, v in jax.jit(hnet.generate)(conditions).items()}
    for i in range(NUM):
        raw = jax.tree.map(np.asarray, pick(conditions, i))
        expected = executor.generate(hnet.plan, arrays, raw)
        assert list(expected) == [entry.tensor for entry in hnet.plan.entries]
        assert set(made) == set(expected)  # jit sorts the names
        for name, value in expected.items():
            close(made[name][i], value, tolerance)
    if path is not None:
        hj.save(hnet, path, with_base=True)
        twin = ht.load(path, stub(hnet.plan.spec))
        again = twin.generate(jax.tree.map(lambda a: torch.tensor(np.asarray(a)), conditions))
        for name, value in again.items():
            close(made[name], value.detach().numpy(), tolerance)
        mine, theirs = neutral_tensors(hnet, with_base=True), torch_tensors(twin, with_base=True)
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            np.testing.assert_array_equal(value, theirs[name].numpy())


close = partial(compare.close, scaled=True, dtypes=False)  # the oracle is in float64


@pytest.fixture
def double() -> Any:
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("case", ALL, ids=str)
def test_the_table_of_cases(case: Case, tmp_path: Path) -> None:
    # Ties are matched by the place of a shared variable: the order of names may differ in torch.
    path = None if case.target == "tied" else tmp_path / "hnet.safetensors"
    check(case.build(jnp.float64), case.conditions(NUM), 1e-12, path)


@pytest.mark.parametrize("case", FEW[::5], ids=str)
def test_the_table_of_cases_in_float32(case: Case, tmp_path: Path) -> None:
    path = None if case.target == "tied" else tmp_path / "hnet.safetensors"
    check(case.build(jnp.float32), case.conditions(NUM, jnp.float32), 1e-6, path)


def test_the_small_table_has_every_layout_form_and_target() -> None:
    assert {case.layout for case in FEW} == set(LAYOUTS)
    assert {case.form for case in FEW} == set(FORMS)
    assert {case.target for case in FEW} == {*TARGETS, "linen"}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    trunk = hj.MLP(7, 6, activation=activation, norm="layer" if activation < "m" else "rms")
    layout = hj.Chunked(9, embedding=3)
    hnet = hj.HyperNetwork(
        mlp(), condition=hj.Vector(4), trunk=trunk, layout=layout, rngs=nnx.Rngs(0)
    )
    vectors = jnp.asarray(np.random.randn(NUM, 4) * 5, jnp.float32)
    check(shaken(hnet), vectors, 1e-6, None)


def test_conditions_that_were_added_later(tmp_path: Path) -> None:
    hnet = Case("mlp", "mixed", "whole", "embedding", "mlp-rms").build(jnp.float32)
    hnet.add_conditions(2, rngs=nnx.Rngs(1))
    hnet.add_conditions(1, rngs=nnx.Rngs(2))
    check(shaken(hnet), jnp.array([7, 5, 0]), 1e-6, tmp_path / "hnet.safetensors")


# ---- the comparison can fail --------------------------------------------------------------------

BROKEN = Case("mlp", "chunked", "whole", "vector", "none")


def _off_by_one(plan: Any, raw: Any, scales: Any, cut: Any = numbers.cut) -> Any:
    return cut(plan, [jnp.roll(numbers, -1, -1) for numbers in raw], scales)


def _without_scale(flat: Any, *_: Any) -> Any:
    return flat


@pytest.mark.parametrize(
    ("name", "fault"), [("cut", _off_by_one), ("scale_and_shift", _without_scale)]
)
def test_a_broken_backend_is_seen(name: str, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hnet, conditions = BROKEN.build(jnp.float32), BROKEN.conditions(NUM, jnp.float32)
    check(hnet, conditions, 1e-6, None)
    monkeypatch.setattr(numbers, name, fault)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(hnet, conditions, 1e-6, None)


def test_wrong_signs_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    hnet, conditions = BROKEN.build(jnp.float32), BROKEN.conditions(NUM, jnp.float32)
    monkeypatch.setattr(heads.LinearHead, "signed", lambda self, features: features)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(hnet, conditions, 1e-6, None)
