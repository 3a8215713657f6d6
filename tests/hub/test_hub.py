"""`Hub`: folders saved and loaded, and what would be uploaded. Nothing leaves the machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import nn

import hyperloom.torch as hl
from hyperloom.hub import Hub


@pytest.fixture
def hnet() -> hl.HyperNetwork:
    torch.manual_seed(0)
    return hl.HyperNetwork(nn.Linear(3, 2), condition=hl.Embedding(4, 3), trunk=hl.MLP(5))


def test_a_folder_gives_back_what_was_saved(hnet: hl.HyperNetwork, tmp_path: Path) -> None:
    Hub(hnet).save_pretrained(tmp_path / "here")
    files = {path.name for path in (tmp_path / "here").iterdir()}
    assert files == {"model.safetensors", "config.json", "plan.svg", "README.md"}
    again = Hub.from_pretrained(tmp_path / "here", target=nn.Linear(3, 2)).hnet
    x = torch.randn(4, 5, 3)
    torch.testing.assert_close(again(x, condition=range(4)), hnet(x, condition=range(4)))
    said = json.loads((tmp_path / "here" / "config.json").read_text("utf-8"))
    assert said["target"] == "Linear"
    assert said["num_parameters"] == hnet.plan.num_parameters


def test_the_card_is_drawn_from_the_plan(hnet: hl.HyperNetwork, tmp_path: Path) -> None:
    Hub(hnet).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text("utf-8")
    assert huggingface_hub.ModelCard(card).data.to_dict()["library_name"] == "hyperloom"
    assert str(hnet.plan) in card
    assert "generates 8 numbers of a Linear" in card
    assert (tmp_path / "plan.svg").read_text("utf-8") == hl.draw(hnet)


def test_push_to_hub_uploads_that_folder(
    hnet: hl.HyperNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Api:
        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path: Path, repo_id: str, **_: Any) -> str:
            shutil.copytree(folder_path, tmp_path / "uploaded")
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert Hub(hnet).push_to_hub("me/mine") == "https://huggingface.co/me/mine/commit/1"
    assert 'from_pretrained("me/mine"' in (tmp_path / "uploaded" / "README.md").read_text("utf-8")
    again = Hub.from_pretrained(tmp_path / "uploaded", target=nn.Linear(3, 2)).hnet
    assert again.plan == hnet.plan


def test_a_target_of_jax_loads_with_jax(hnet: hl.HyperNetwork, tmp_path: Path) -> None:
    nnx = pytest.importorskip("flax.nnx")
    hj = pytest.importorskip("hyperloom.jax")
    Hub(hnet).save_pretrained(tmp_path)
    names = {"kernel": "weight", "bias": "bias"}
    layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    assert isinstance(
        Hub.from_pretrained(tmp_path, target=layer, translate=names).hnet, hj.HyperNetwork
    )


def test_what_cannot_be_is_refused(hnet: hl.HyperNetwork, tmp_path: Path) -> None:
    with pytest.raises(TypeError) as refused:
        Hub(3)
    assert str(refused.value) == "hnet: got 3; wanted a HyperNetwork."
    Hub(hnet).save_pretrained(tmp_path)
    with pytest.raises(TypeError) as refused:
        Hub.from_pretrained(tmp_path)
    assert str(refused.value) == (
        "target: got nothing; wanted the target, as it was. "
        'Hub.from_pretrained("user/name", target=module) fills a copy of its plan.'
    )
    with pytest.raises(hl.CheckpointError):
        Hub.from_pretrained(tmp_path, target=nn.Linear(4, 2))
