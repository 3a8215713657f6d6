"""Slot embeddings that say what a slot is, and heads by type of module, in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests._support.compare import close
from tests._support.on_torch import hypernetwork
from tests._support.targets import mlp


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width // 2)
        self.out = nn.Linear(width // 2, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.v_proj(x) * self.q_proj(x)[..., : self.out.in_features])


class Model(nn.Module):
    def __init__(self, width: int = 6, depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def text_to_lora(**choices: Any) -> hl.HyperNetwork:
    """Text-to-LoRA: a description, a layer and a type of module give A and B."""
    adapted = ("*.q_proj.weight", "*.v_proj.weight")
    layout = hl.Grouped(hl.PerModule(layer=4, module=3), hl.Modules(), signs=False)
    return hypernetwork(
        lambda: Model().double(),
        condition=hl.Vector(5),
        trunk=hl.MLP(16, 12, activation="silu", norm=None),
        layout=dict.fromkeys(adapted, layout),
        form=dict.fromkeys(adapted, hl.LoRA(2, alpha=4.0)),
        **choices,
    )


def filled(hnet: hl.HyperNetwork, seed: int = 1) -> hl.HyperNetwork:
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draws))
    return hnet


def test_text_to_lora_by_hand() -> None:
    """The same adapters as its description gives: [text, layer, module] -> MLP -> A and B."""
    hnet, texts = filled(text_to_lora()), torch.randn(3, 5).double()
    state = hnet.state_dict()
    generated = hnet.generate(texts)
    heads = {
        e.tensor: [(hnet.plan.heads[p.head].name, p.start // p.numel) for p in e.pieces]
        for e in hnet.plan.entries
    }
    base = Model()
    for i, text in enumerate(texts):
        for layer in range(3):
            for module, width in (("q_proj", 6), ("v_proj", 3)):
                kind = 0 if module == "q_proj" else 1
                e_layer = state["heads.slot_tables.layer"][layer]
                e_module = state["heads.slot_tables.module"][kind]
                x = torch.cat([text, e_layer, e_module])
                for j in range(2):
                    weight, bias = (state[f"trunks.0.{j}.{n}"] for n in ("weight", "bias"))
                    x = nn.functional.silu(weight @ x + bias)
                name = f"layers.{layer}.{module}.weight"
                factors = []
                for (head, slot), shape in zip(heads[name], ((width, 2), (2, 6)), strict=True):
                    assert slot == layer  # a head for each type of module and factor
                    weight, bias = state[f"heads.{head}.weight"], state[f"heads.{head}.bias"]
                    factors.append((weight @ x + bias).reshape(shape))
                own = hnet.instantiate(text).state_dict()[name]
                change = 4.0 / 2 * factors[0] @ factors[1]
                delta = generated[name][i] - dict(hnet.bases.tensors())[name]
                close(delta, change, 1e-12)
                close(own, generated[name][i], 1e-12)
    assert len({head for pairs in heads.values() for head, _ in pairs}) == 4
    assert len(base.layers) == 3


def test_the_plan_tells_what_slots_are() -> None:
    hnet = text_to_lora()
    assert hnet.plan.num_parameters == sum(p.numel() for p in hnet.parameters())
    tables = {table.name: table.values for table in hnet.plan.slot_tables}
    assert tables == {
        "layer": ("0", "1", "2"),
        "module": ("layers.q_proj", "layers.v_proj"),
    }
    assert "3 x Linear(12 -> 12), embeddings of layer, module" in str(hnet)


SUM = hl.SlotSum(6, hl.OfLayer(), hl.OfModule(), hl.OfRole(), hl.OfBlock())
LAYOUTS = {
    "chunks": hl.Chunked(7, SUM),
    "tensors": hl.Grouped(hl.SlotSum(6, hl.OfLayer(sinusoidal=True), hl.OfModule(), hl.OfShape())),
    "tiles": hl.Grouped(SUM, hl.Tiles(4)),
    "largest": hl.Grouped(SUM, hl.Largest(24)),
    "modules": hl.Grouped(hl.PerModule(3, 3), hl.Modules()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_and_a_batch(layout: str, tmp_path: Path) -> None:
    hnet = hypernetwork(Model, trunk=hl.Transformer(8, 1, 2), layout=LAYOUTS[layout])
    x, ids = torch.randn(3, 4, 6), torch.tensor([2, 0, 1])
    y = hnet(x, condition=ids)
    for i in range(3):
        close(hnet(x[i], condition=ids[i]), y[i], 1e-4)
    y.sum().backward()
    for name, parameter in hnet.named_parameters():
        assert parameter.grad is not None, name
    hl.save(hnet, tmp_path / "a")
    again = hl.load(tmp_path / "a", Model())
    assert again.plan == hnet.plan
    close(again(x, condition=ids), y, 1e-6)
    again.double()
    assert again.generate(0)["head.weight"].dtype == torch.float64


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_start_is_native(layout: str) -> None:
    hnet = hypernetwork(
        lambda: mlp(20, 32, 32, 32, 5),
        condition=hl.Vector(8),
        trunk=hl.MLP(64),
        layout=LAYOUTS[layout],
    )
    report = hnet.doctor(torch.randn(64, 32, 20), condition=torch.randn(64, 8))
    for layer in report.readings.layers:
        assert 0.5 < layer.activation / layer.native_activation < 2.0, layer
        assert 0.5 < layer.gradient / layer.native_gradient < 2.0, layer


class Unused(nn.Module):
    """A target most of which a call does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(40, 30)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x).relu()


@pytest.mark.parametrize("trunk", [hl.Transformer(8, 1, 2), hl.MLP(8, norm="batch")], ids=str)
def test_slots_of_heads_that_a_call_does_not_use_are_still_seen(trunk: Any) -> None:
    hnet = hypernetwork(Unused, trunk=trunk, layout=hl.Grouped(4))
    x, ids = torch.randn(3, 5, 4), [0, 2, 1]
    generated = hnet.generate(ids)
    weight, bias = generated["used.weight"], generated["used.bias"]
    expected = (x @ weight.mT + bias[:, None]).relu()
    for _ in range(4):
        close(hnet(x, condition=ids), expected, 1e-4)


WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: hl.SlotSum(4), ValueError, "SlotSum(*parts): got none; wanted OfLayer(), OfModule()"),
    (
        lambda: hl.SlotSum(4, hl.OfLayer),  # type: ignore[arg-type]
        TypeError,
        "SlotSum(*parts): got the class OfLayer; wanted OfLayer(), OfModule(), OfRole(), OfBlock()",
    ),
    (
        lambda: hl.SlotSum(4, hl.OfLayer(), hl.OfLayer()),
        ValueError,
        "SlotSum(*parts): got (OfLayer(), OfLayer()); wanted OfLayer(), OfModule(), OfRole()",
    ),
    (
        lambda: hl.Chunked(4, hl.PerModule(), per_condition=True),
        ValueError,
        "Chunked(per_condition=): got True with embedding=PerModule(); wanted embedding=width, an",
    ),
    (
        lambda: hl.Grouped("wide"),  # type: ignore[arg-type]
        TypeError,
        "Grouped(embedding=): got 'wide'; wanted an int of at least 1, SlotSum(width, ...) or Per",
    ),
    (
        lambda: hypernetwork(Model, layout=hl.Chunked(4, hl.PerModule())),
        ValueError,
        "layout: got Chunked(4, embedding=PerModule()), which says the same of block 0 of 'layers",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG, ids=[text[:60] for *_, text in WRONG])
def test_wrong_values_are_named(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(text)
