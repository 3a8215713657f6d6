"""hypnettorch's example script through the door: the same numbers after three tasks."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("hypnettorch")

from hypnettorch.utils import hnet_regularizer as their_regularizer

from hyperloom.compat.hypnettorch.utils import hnet_regularizer, sim_utils
from tests.compat.hypnettorch_hypercl import arguments, hypercl


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """hypnettorch's own helpers, without the logger that they import."""
    logger = ModuleType("tensorboardX")
    logger.SummaryWriter = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorboardX", logger)
    return SimpleNamespace(
        get_hypernet=__import__(
            "hypnettorch.utils.sim_utils", fromlist=["get_hypernet"]
        ).get_hypernet,
        hnet_regularizer=their_regularizer,
    )


DOOR = SimpleNamespace(get_hypernet=sim_utils.get_hypernet, hnet_regularizer=hnet_regularizer)
CHOICES = {
    "chunked": (),
    "chunks by task": ("--use_cond_chunk_embs", "--cond_emb_size=0"),
    "targets online": ("--calc_hnet_reg_targets_online", "--beta=1"),
    "not chunked": ("--hnet_type=hmlp", "--beta=1", "--hnet_net_act=tanh"),
    "one old task a step": ("--hnet_reg_batch_size=1", "--beta=1"),
    "without biases": ("--hnet_no_bias", "--hnet_net_act=sigmoid"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_numbers_are_hypnettorchs(name: str, theirs: Any) -> None:
    config = arguments(*CHOICES[name])
    torch.manual_seed(0)
    np.random.seed(0)  # draws the old tasks, in both
    wanted = hypercl(theirs, config)
    np.random.seed(0)
    found = hypercl(DOOR, config, wanted.start)
    assert len(found.norms) == 3
    assert found.norms == pytest.approx(wanted.norms, rel=1e-10)
    assert found.losses == pytest.approx(wanted.losses, rel=1e-8)
    assert found.accuracy == wanted.accuracy
    assert set(found.end) == set(wanted.end)
    for key, value in found.end.items():
        # Where a gradient is nearly zero, Adam divides rounding by it.
        torch.testing.assert_close(value, wanted.end[key], rtol=1e-6, atol=1e-6)
    moved = [not torch.equal(value, found.start[key]) for key, value in found.end.items()]
    assert all(moved)


def test_the_rest_of_the_module_is_hypnettorchs(theirs: Any) -> None:
    own = sys.modules["hypnettorch.utils.sim_utils"]
    assert sim_utils.calc_train_iter is own.calc_train_iter  # type: ignore[attr-defined]
    assert sim_utils.get_mnet_model is own.get_mnet_model  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("net_type", "options", "words"),
    [
        ("mlp", {}, "net_type: got 'mlp'; wanted one of"),
        ("hmlp", {"hmlp_arch": "10;10"}, "hmlp_arch: got '10;10'; wanted one architecture"),
        ("hmlp", {"hnet_net_act": "relo"}, "hnet_net_act: got 'relo'; wanted one of"),
    ],
)
def test_what_is_wrong_is_named(net_type: str, options: dict[str, str], words: str) -> None:
    config = SimpleNamespace(**{"hmlp_arch": "10", "cond_emb_size": 4, **options})
    with pytest.raises(ValueError, match=words):
        sim_utils.get_hypernet(config, "cpu", net_type, [[2, 3]], 2)


def test_structured_from_arguments() -> None:
    config = SimpleNamespace(hmlp_arch="6;5", chunk_emb_size="3,4", cond_emb_size=2)
    shapes = [[2, 3], [4, 5]]
    hnet: Any = sim_utils.get_hypernet(
        config,
        "cpu",
        "structured_hmlp",
        shapes,
        2,
        shmlp_chunk_shapes=[[[2, 3]], [[4, 5]]],
        shmlp_num_per_chunk=[1, 1],
        shmlp_assembly_fct=lambda chunks: [chunks[0][0], chunks[1][0]],
        verbose=False,
    )
    assert [list(w.shape) for w in hnet.forward(cond_id=1)] == shapes
