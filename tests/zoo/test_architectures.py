"""Architectures of the transformers library: a batch of conditions equals the loop.

The default suite runs each once, in eval mode, with all parameters generated. `make zoo` adds
training mode, a part of the parameters, and ten steps of training.
"""

from __future__ import annotations

import pytest
import torch

import hyperloom.torch as hl
from tests.zoo import checks
from tests.zoo.architecture import Architecture
from tests.zoo.architectures import ARCHITECTURES
from tests.zoo.checks import NUM, frozen_copy, hypernetwork, tensors, unchanged

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers' and torch's own, on every import
]
KINDS = {
    "audio",
    "convolutional",
    "decoder",
    "encoder",
    "encoder-decoder",
    "mixture of experts",
    "multimodal",
    "state space",
    "vision transformer",
}


def seeded() -> None:
    torch.manual_seed(5)


def batch_equals_loop(entry: Architecture, train: bool, part: bool) -> None:
    dtype = torch.float32 if entry.single else torch.float64
    target = entry.make().to(dtype).train(train)
    before = frozen_copy(target)
    layout = {entry.pattern: hl.Full()} if part else hl.Chunked(256, embedding=4)
    hnet = hypernetwork(target, layout=layout).train(train)
    inputs = entry.inputs(NUM, dtype=dtype)
    tolerance = 1e-5 if entry.single else 1e-9
    checks.batch_equals_loop(hnet, (), inputs, tolerance, prepare=seeded)
    unchanged(target, before)


@pytest.mark.parametrize("entry", ARCHITECTURES, ids=lambda entry: entry.name)
def test_a_batch_equals_the_loop(entry: Architecture) -> None:
    batch_equals_loop(entry, train=False, part=False)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ARCHITECTURES, ids=lambda entry: entry.name)
def test_a_part_of_the_parameters(entry: Architecture) -> None:
    batch_equals_loop(entry, train=False, part=True)


TRAINING = [entry for entry in ARCHITECTURES if not entry.eval_only]


@pytest.mark.slow
@pytest.mark.parametrize("entry", TRAINING, ids=lambda entry: entry.name)
def test_training_mode(entry: Architecture) -> None:
    batch_equals_loop(entry, train=True, part=False)


@pytest.mark.parametrize(
    "entry", [e for e in TRAINING if e.fast], ids=lambda entry: f"{entry.kind}-{entry.name}"
)
def test_training_mode_of_one_of_each_kind(entry: Architecture) -> None:
    batch_equals_loop(entry, train=True, part=True)


def test_the_table_is_as_large_as_promised() -> None:
    assert len({entry.name for entry in ARCHITECTURES}) == len(ARCHITECTURES) >= 40
    assert {entry.kind for entry in ARCHITECTURES} == KINDS
    assert {entry.kind for entry in ARCHITECTURES if entry.fast} == KINDS


def test_a_wrong_pairing_would_be_seen() -> None:
    entry = ARCHITECTURES[0]
    hnet = hypernetwork(entry.make().double().eval(), layout=hl.Chunked(256, embedding=4)).eval()
    inputs = entry.inputs(NUM, dtype=torch.float64)
    batch = tensors(hnet(condition=[0, 1, 2], **inputs))[0]
    other = tensors(hnet(condition=[1, 2, 0], **inputs))[0]
    with pytest.raises(AssertionError):
        checks.compare([batch], [other], 1e-9, ["0"])
