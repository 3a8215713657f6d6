"""A file that an early version wrote is read for ever; the reference generates what it did."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load_file

import hyperloom as hl
from hyperloom._core.checkpoint.file import read_description
from hyperloom._core.reference.executor import generate
from tests.core.kept import CONDITION, PATH, generated


def test_the_file_is_read() -> None:
    described = read_description(PATH)
    assert described.version == "0.1.0.dev0"
    assert described.statistics == hl.PerConditionStatistics()
    assert described.plan.condition == hl.Concat(hl.Embedding(4, 4), hl.Vector(2))
    assert described.plan.trunk == hl.MLP(5, norm="layer")
    forms = {entry.tensor: entry.form for entry in described.plan.entries}
    assert forms["5.weight"] == hl.LoRA(1, alpha=2.0)


def test_the_reference_generates_what_it_did() -> None:
    made = generate(read_description(PATH).plan, load_file(PATH), CONDITION)
    assert set(made) == set(generated())
    for name, numbers in generated().items():
        np.testing.assert_allclose(made[name].ravel(), numbers, rtol=1e-4, atol=1e-5)
