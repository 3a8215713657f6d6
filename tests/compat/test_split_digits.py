"""The example: the door, the native hypernetwork and hypnettorch give the same numbers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hyperloom.compat import hypnettorch as door
from hyperloom.compat.hypnettorch import hnets
from tests.compat import hypnettorch_cases as cases

PATH = Path(__file__).parents[2] / "examples" / "split_digits.py"


def _example() -> Any:
    import sys

    spec = importlib.util.spec_from_file_location("split_digits", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["split_digits"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_same_numbers_from_the_same_seeds() -> None:
    peer = pytest.importorskip("hypnettorch")
    pytest.importorskip("hypnettorch.utils.hnet_regularizer")
    example = _example()
    settings = example.Settings(steps=40)
    tasks = example.tasks_of(*example.digits())
    start = example.start_of(tasks, settings)
    ours = example.peer_style(door, tasks, settings, start)
    native = example.natively(tasks, settings, start)
    theirs = example.peer_style(peer, tasks, settings, start)
    for made in (native, theirs):
        # Rounding grows in 200 steps of Adam; at the start there is nothing but rounding.
        np.testing.assert_allclose(made.losses[:10], ours.losses[:10], rtol=1e-4)
        np.testing.assert_allclose(made.losses, ours.losses, rtol=0.05, atol=5e-3)
        np.testing.assert_allclose(made.final, ours.final, atol=0.03)
    assert np.mean(ours.final) > 0.85
    assert np.mean(ours.final) > np.mean(ours.after) - 0.05  # nothing is forgotten


# An activation without a name in the core, or no parameters held inside.
NOT_NATIVE = ("sine", "elu-2", "relu-.3", "own-activation", "from-outside")
NATIVE = [
    case
    for case in (*cases.HMLPS, *cases.CHUNKEDS)
    if case.ids and not any(word in str(case) for word in NOT_NATIVE)
]
OUTSIDE = [case for case in (*cases.HMLPS, *cases.CHUNKEDS) if "from-outside" in str(case)]


@pytest.mark.parametrize("case", NATIVE, ids=str)
def test_the_native_hypernetwork_generates_the_same(case: Any) -> None:
    hnet = case.build(hnets).eval()
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter.normal_()
    target = nn.ParameterList(torch.zeros(shape) for shape in hnet.target_shapes)
    native = door.to_native(hnet, target).eval()
    inputs = case.inputs(3)
    wanted = hnet.forward(ret_format="flattened", **inputs)
    ids = inputs["cond_id"]
    raw = (inputs["uncond_input"], ids) if case.uncond else ids
    made = torch.cat([t.flatten(1) for t in native.generate(raw).values()], dim=1)
    cases.assert_close(made, wanted)


def test_what_has_no_native_form_is_refused() -> None:
    target = nn.ParameterList(torch.zeros(shape) for shape in cases.SHAPES)
    sine = cases.hmlp("", activation_fn=torch.sin).build(hnets)
    with pytest.raises(ValueError, match="wanted parameters held inside, and an activation"):
        door.to_native(sine, target)
    assert OUTSIDE
    for case in OUTSIDE:
        with pytest.raises(ValueError, match="wanted parameters held inside, and an activation"):
            door.to_native(case.build(hnets), target)
    with pytest.raises(ValueError, match="target: has tensors"):
        door.to_native(cases.hmlp("").build(hnets), nn.Linear(2, 2))
    with pytest.raises(TypeError, match="hnet: got a HContainer"):
        door.to_native(cases.CONTAINERS[0].build(hnets), target)
