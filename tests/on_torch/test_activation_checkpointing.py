"""Activation checkpointing inside the target: right gradients, or refused by name.

The recomputation runs when a call is over and its tensors are out of the target.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hyperloom.torch as hl
from tests.on_torch.modules import close_leaves, floats, gradients, with_target
from tests.zoo.architecture import without_dropout

os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytestmark = [
    # A batch of conditions runs a target that checkpoints on rows, or in a loop.
    pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    # transformers 5 has a new name for the switch, and the old one beside it.
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated"),
]

REFUSED = "target: got activation checkpointing with use_reentrant=True in "
BOTH = pytest.mark.parametrize("condition", [0, [0, 2, 1]], ids=["one", "batch"])


class NotCheckpointed(nn.Module):
    """Two layers; those below recompute the first in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(4, 4), nn.Linear(4, 2), reentrant

    def part(self, x: Tensor) -> Tensor:
        return torch.tanh(self.first(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.part(x))


class Checkpointed(NotCheckpointed):
    """Names the function of torch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.part, x, use_reentrant=self.reentrant))


class Helper:
    """Code that no name in the target's own code leads to."""

    @staticmethod
    def saved(part: Callable[[Tensor], Tensor], x: Tensor, reentrant: bool) -> Tensor:
        return checkpoint(part, x, use_reentrant=reentrant)


class Sometimes(NotCheckpointed):
    """Recomputes for positive inputs only, by a function of somebody else's."""

    def forward(self, x: Tensor) -> Tensor:
        positive = bool((x > 0).all())
        return self.last(Helper.saved(self.part, x, self.reentrant) if positive else self.part(x))


class ByAnotherName(NotCheckpointed):
    """Imports the function under another name."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(another_name(self.part, x, use_reentrant=self.reentrant))


another_name = checkpoint


def twins(make: Callable[[bool], nn.Module], reentrant: bool) -> tuple[Any, Any]:
    """Return equal hypernetworks of a target that checkpoints, and of one that does not."""
    _, hnet = with_target(lambda: make(reentrant))
    plain = hl.HyperNetwork(NotCheckpointed(False).double(), condition=hl.Embedding(4, 3))
    plain.load_state_dict(hnet.state_dict())
    return hnet, plain


def fed(condition: Any) -> Tensor:
    x = floats(5, 4)()
    return x if isinstance(condition, list) else x[0]


@BOTH
def test_checkpointing_inside_the_target_is_right(condition: Any) -> None:
    hnet, plain = twins(Checkpointed, False)
    x = fed(condition)
    if isinstance(condition, list):
        hnet(x, condition=condition)
        explained = hnet.explain(x, condition=condition)
        assert explained.strategy == "rows"
        assert "'first' (Linear): it checkpoints activations" in explained.reason
    for _ in range(2):
        found = gradients(hnet(x, condition=condition), hnet)
        close_leaves(found, gradients(plain(x, condition=condition), plain))
    hnet.execution = hl.Execution(recompute=True)
    found = gradients(hnet(x, condition=condition), hnet)
    close_leaves(found, gradients(plain(x, condition=condition), plain))


@BOTH
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("make", [Checkpointed, ByAnotherName])
def test_reentrant_checkpointing_inside_the_target_is_refused(
    make: Callable[[bool], nn.Module], needs_grad: bool, condition: Any
) -> None:
    hnet, plain = twins(make, True)
    x = fed(condition).requires_grad_(needs_grad)
    for _ in range(2):
        with pytest.raises(ValueError, match=REFUSED):
            hnet(x, condition=condition)
    with torch.no_grad():  # there it does nothing
        close_leaves(hnet(x, condition=condition), plain(x, condition=condition))


@BOTH
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("needs_grad", [False, True])
def test_reentrant_checkpointing_of_some_inputs_is_refused_whenever_it_comes(
    needs_grad: bool, condition: Any
) -> None:
    """Not in the first calls, and not named by the target's code: every call is watched."""
    hnet, plain = twins(Sometimes, True)
    x = fed(condition).abs().requires_grad_(needs_grad)
    for _ in range(2):
        close_leaves(
            gradients(hnet(-x, condition=condition), hnet),
            gradients(plain(-x, condition=condition), plain),
        )
    assert not hnet._runner.skeleton.code.may_checkpoint  # or this would not test what it says
    with pytest.raises(ValueError, match=REFUSED + "Sometimes"):
        hnet(x, condition=condition)
    found = gradients(hnet(-x, condition=condition), hnet)  # and nothing is left behind
    close_leaves(found, gradients(plain(-x, condition=condition), plain))


@BOTH
def test_checkpointing_of_some_inputs_is_right_whenever_it_comes(condition: Any) -> None:
    hnet, plain = twins(Sometimes, False)
    x = fed(condition).abs()
    for sign in (-1, -1, 1, -1, 1):
        found = gradients(hnet(sign * x, condition=condition), hnet)
        close_leaves(found, gradients(plain(sign * x, condition=condition), plain))


class Drawing(Sometimes):
    """Draws, and counts its calls, before it recomputes."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__(reentrant)
        self.register_buffer("calls", torch.zeros(()))
        self.calls: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(nn.functional.dropout(x))


def test_a_call_that_is_run_again_has_run_once() -> None:
    """What is found in the middle of a call starts it over: draws and buffers are as before."""
    _, hnet = with_target(lambda: Drawing(False))
    plain = copy.deepcopy(hnet)
    x, other = floats(5, 4)()[0].abs(), -floats(5, 4)()[0].abs()
    for net in (hnet, plain):
        net(other, condition=0)
    plain._runner.skeleton.checkpointing.add(True)  # it knows beforehand
    made = []
    for net in (hnet, plain):
        torch.manual_seed(3)
        made.append((net(x + 9, condition=0), torch.rand(1)))
    close_leaves(made[0], made[1])
    close_leaves(hnet.state_dict(), plain.state_dict())
    assert float(dict(hnet.target_buffers.tensors())["calls"]) == 2


def test_checkpointing_around_the_call_is_exact() -> None:
    _, hnet = with_target(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)))
    x, ids = floats(5, 4)(), torch.tensor([0, 1, 2])
    y = checkpoint(lambda x: hnet(x, condition=ids), x, use_reentrant=False)
    close_leaves(gradients(y, hnet), gradients(hnet(x, condition=ids), hnet))


# ---- transformers' own switch --------------------------------------------------------------------

_SIZES: dict[str, Any] = {"vocab_size": 19, "hidden_size": 8, "intermediate_size": 8}
_DEPTH = {"num_hidden_layers": 2, "num_attention_heads": 2}

# class of the model, of its configuration, its options, whether it sees pictures
FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"vocab_size": 19, "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2},
        (),
    ),
    "BertModel": ("BertConfig", {**_SIZES, **_DEPTH, "max_position_embeddings": 6}, ()),
    "LlamaForCausalLM": ("LlamaConfig", {**_SIZES, **_DEPTH, "num_key_value_heads": 1}, ()),
    "T5EncoderModel": (
        "T5Config",
        {"vocab_size": 19, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2},
        (),
    ),
    "ViTModel": (
        "ViTConfig",
        {**_DEPTH, "hidden_size": 8, "intermediate_size": 8, "image_size": 8, "patch_size": 4},
        (3, 8, 8),
    ),
    "MambaModel": (
        "MambaConfig",
        {"vocab_size": 19, "hidden_size": 8, "state_size": 4, "num_hidden_layers": 2},
        (),
    ),
}
FAST = ("GPT2LMHeadModel", "ViTModel")
EACH = [
    pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow], id=name)
    for name in FAMILIES
]


def model(name: str) -> nn.Module:
    """Build a model of transformers from a configuration, in training mode, without dropout."""
    import transformers

    kind, options, _ = FAMILIES[name]
    torch.manual_seed(0)
    made = getattr(transformers, name)(getattr(transformers, kind)(**options)).double()
    if hasattr(made.config, "use_cache"):
        made.config.use_cache = False
    return without_dropout(made.train())


def inputs(name: str, condition: Any) -> Tensor:
    """Return tokens or pictures: two for each condition."""
    picture, lead = FAMILIES[name][2], (len(condition),) if isinstance(condition, list) else ()
    if picture:
        return torch.randn(*lead, 2, *picture, dtype=torch.float64)
    return torch.randint(19, (*lead, 2, 5))


def pair(name: str, options: dict[str, Any]) -> tuple[hl.HyperNetwork, hl.HyperNetwork]:
    """Return equal hypernetworks of a model that checkpoints, and of one that does not."""
    made = []
    for on in (True, False):
        target = model(name)
        if on:
            target.gradient_checkpointing_enable(**options)  # type: ignore[operator]
            assert any(getattr(p, "gradient_checkpointing", False) for p in target.modules())
        torch.manual_seed(1)
        made.append(hl.HyperNetwork(target, condition=hl.Embedding(3, 2)))
    made[0].load_state_dict(made[1].state_dict())
    return made[0], made[1]


@BOTH
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_checkpointing_kwargs": {"use_reentrant": False}}],
    ids=["default", "not-reentrant"],
)
@pytest.mark.parametrize("name", EACH)
def test_the_switch_of_transformers_changes_no_gradient(
    name: str, options: dict[str, Any], condition: Any
) -> None:
    hnet, plain = pair(name, options)
    x = inputs(name, condition)
    theirs = plain(x, condition=condition)[0]
    expected = gradients(theirs, plain)
    for _ in range(2):
        ours = hnet(x, condition=condition)[0]
        close_leaves(ours, theirs)
        close_leaves(gradients(ours, hnet), expected)
    assert True in hnet._runner.skeleton.checkpointing  # it did recompute
    hnet.execution = hl.Execution(recompute=True)
    close_leaves(gradients(hnet(x, condition=condition)[0], hnet), expected)


@BOTH
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", EACH)
def test_the_reentrant_switch_of_transformers_is_refused(name: str, condition: Any) -> None:
    kind = {"gradient_checkpointing_kwargs": {"use_reentrant": True}}
    hnet, plain = pair(name, kind)
    x = inputs(name, condition)
    for _ in range(2):
        with pytest.raises(ValueError, match=REFUSED):
            hnet(x, condition=condition)
    with torch.no_grad():  # there it does nothing
        close_leaves(hnet(x, condition=condition)[0], plain(x, condition=condition)[0])
    hnet.eval()  # nor there
    plain.eval()
    ours, theirs = hnet(x, condition=condition)[0], plain(x, condition=condition)[0]
    close_leaves(gradients(ours, hnet), gradients(theirs, plain))
