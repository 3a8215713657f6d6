"""`hl.peft`: adapters that PEFT loads, with the same logits, and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.torch._tools.peft import write
from tests._support.on_torch import shaken
from tests.on_torch.peft_models import DORA, FAMILIES, Family

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
IDS = torch.tensor([2, 0, 3])
CASES = [(name, False) for name in FAMILIES] + [(name, True) for name in sorted(DORA)]


def config_of(family: Family, **options: Any) -> peft.LoraConfig:
    options = {"r": 2, "lora_alpha": 3, **family.more, **options}
    return peft.LoraConfig(target_modules=family.targets, **options)


def adapted(name: str, layout: Any = None, **options: Any) -> hl.HyperNetwork:
    """Make a hypernetwork of adapters, away from its start."""
    model = FAMILIES[name].make()
    given, form = hl.peft.choices(model, config_of(FAMILIES[name], **options))
    layouts: Any = given if layout is None else dict.fromkeys(given, layout)
    torch.manual_seed(1)
    hnet = hl.HyperNetwork(model, condition=hl.Embedding(4, 4), layout=layouts, form=form)
    return shaken(hnet.eval(), 0.2)


def logits(model: nn.Module, inputs: dict[str, Tensor], row: int, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(**{name: value[row] for name, value in inputs.items()}, **options).logits


def close_to_largest(value: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(("name", "dora"), CASES)
def test_exported_adapters_give_the_same_logits_and_come_back(
    name: str, dora: bool, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    hnet, inputs = adapted(name, use_dora=dora), family.inputs(3)
    hl.peft.export(hnet, IDS, tmp_path)
    folders = [tmp_path / str(i) for i in range(3)]
    wanted = [logits(hnet, inputs, i, condition=IDS[i]) for i in range(3)]
    for i, folder in enumerate(folders):
        loaded = peft.PeftModel.from_pretrained(family.make(), folder).eval()
        keys = {k for k in peft.get_peft_model_state_dict(loaded) if ".base_layer." not in k}
        assert keys <= set(hl.peft.state_dict(hnet, IDS[i]))
        close_to_largest(logits(loaded, inputs, i), wanted[i])
        close_to_largest(logits(loaded.merge_and_unload(), inputs, i), wanted[i])
    assert float((logits(family.make(), inputs, 0) - wanted[0]).abs().max()) > 1e-3
    # As ids of a hypernetwork without a generator between.
    tables = adapted(name, hl.PerCondition(), use_dora=dora)
    factors = hl.peft.load(tables, folders, ids=[3, 1, 0])
    for i, number in enumerate([3, 1, 0]):
        close_to_largest(logits(tables, inputs, i, condition=number), wanted[i])
    if not dora:
        mine = hnet.factors(IDS)
        for layer, (a, b, scaling) in factors.items():
            assert scaling == mine[layer].scaling
            close_to_largest(b @ a, mine[layer].b @ mine[layer].a)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_pefts_mixed_batches(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    hnet, inputs = adapted(name), family.inputs(3)
    hl.peft.export(hnet, IDS, [tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    mixed = peft.PeftModel.from_pretrained(family.make(), tmp_path / "a", adapter_name="a").eval()
    for other in "bc":
        mixed.load_adapter(tmp_path / other, other)
    flat = {key: value.flatten(0, 1) for key, value in inputs.items()}
    with torch.no_grad():
        got = mixed(**flat, adapter_names=list("aabbcc")).logits
        wanted = hnet(**flat, condition=IDS, rows=[0, 0, 1, 1, 2, 2]).logits
    close_to_largest(got, wanted)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "bert"])
def test_adapters_that_peft_made_are_read(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    torch.manual_seed(3)
    trained = peft.get_peft_model(family.make(), config_of(family, init_lora_weights=False)).eval()
    trained.save_pretrained(str(tmp_path))
    inputs, tables = family.inputs(1), adapted(name, hl.PerCondition())
    factors = hl.peft.load(tables, [tmp_path], ids=[2])
    close_to_largest(logits(tables, inputs, 0, condition=2), logits(trained, inputs, 0))
    of_one: Any = {key: f._replace(a=f.a[0], b=f.b[0]) for key, f in factors.items()}
    args: Any = {key: value[0] for key, value in inputs.items()}
    with torch.no_grad():
        got = adapted(name).run(of_one, **args).logits
    close_to_largest(got, logits(trained, inputs, 0))


class Small(nn.Module):
    """A convolution, an embedding and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(9, 4), nn.LayerNorm(4)
        self.conv, self.last = nn.Conv1d(4, 6, 3, bias=False), nn.Linear(6, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.conv(self.norm(self.table(ids)).mT).mT.tanh())


def small(**options: Any) -> tuple[nn.Module, hl.HyperNetwork]:
    torch.manual_seed(0)
    model = Small()
    targets = ["table", "conv", "last"]
    config = peft.LoraConfig(r=3, target_modules=targets, modules_to_save=["norm"], **options)
    layout, form = hl.peft.choices(model, config)
    hnet = hl.HyperNetwork(model, condition=hl.Embedding(3, 4), layout=layout, form=form)
    return model, shaken(hnet, 0.2)


@pytest.mark.parametrize("dora", [False, True])
def test_all_kinds_of_layers(dora: bool, tmp_path: Path) -> None:
    model, hnet = small(use_dora=dora, use_rslora=True)
    hl.peft.export(hnet, 1, tmp_path / "adapter")
    ids = torch.randint(0, 9, (2, 5))
    wanted = hnet(ids, condition=1)
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    torch.testing.assert_close(loaded(ids), wanted, rtol=1e-5, atol=1e-5)
    config = hl.peft.config(hnet)
    assert (config.r, config.lora_alpha, config.use_rslora) == (3, 8, True)
    assert config.modules_to_save == ["norm"]


def test_an_adapter_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    _, hnet = small()
    folder = tmp_path / "adapter"
    hl.peft.export(hnet, 0, folder)
    first = (folder / "adapter_model.safetensors").read_bytes()
    hl.peft.export(hnet, 1, folder)
    assert (folder / "adapter_model.safetensors").read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    with pytest.raises(FileExistsError, match="which is there; wanted a new folder"):
        hl.peft.export(hnet, 1, folder, overwrite=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="wanted a new folder, or an adapter to replace"):
        hl.peft.export(hnet, 1, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    _, hnet = small()
    saved: list[Any] = []

    def fail(*args: Any) -> None:
        saved.append(args)
        if len(saved) == 2:
            raise OSError("disk full")

    monkeypatch.setattr(write, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        hl.peft.export(hnet, [0, 1], tmp_path / "adapters")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="; wanted a folder that can be written"):
        hl.peft.export(hnet, 0, tmp_path / "file" / "adapter")


# ---- what is refused ----------------------------------------------------------------------------


def choices(**options: Any) -> Any:
    return hl.peft.choices(Small(), peft.LoraConfig(**options))


def of_form(form: Any, layout: Any = None, model: nn.Module | None = None) -> Any:
    layout = {"last.weight": hl.Full()} if layout is None else layout
    model = Small() if model is None else model
    return hl.peft.config(
        hl.HyperNetwork(model, condition=hl.Embedding(3, 4), layout=layout, form=form)
    )


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight
    return model


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "another method": (
        lambda: hl.peft.choices(Small(), peft.IA3Config()),
        TypeError,
        "config: got a IA3Config; wanted a peft.LoraConfig.",
    ),
    "no config": (lambda: hl.peft.choices(Small(), 3), TypeError, "config: got 3; wanted a peft"),
    "no such layer": (
        lambda: choices(target_modules=["q_proj"]),
        ValueError,
        "config.target_modules: got {'q_proj'}; wanted names of layers of Small. There are: ",
    ),
    "no default": (
        lambda: choices(),
        ValueError,
        "config.target_modules: got None; wanted names of layers: PEFT has no default",
    ),
    "no LoRA for it": (
        lambda: choices(target_modules=["norm"]),
        ValueError,
        "target_modules: got 'norm', a LayerNorm; wanted linear layers, embeddings,",
    ),
    "no such module to save": (
        lambda: choices(target_modules=["last"], modules_to_save=["score"]),
        ValueError,
        "config.modules_to_save: got 'score'; wanted names of modules of Small.",
    ),
    "dropout": (
        lambda: choices(target_modules=["last"], lora_dropout=0.1),
        ValueError,
        "config.lora_dropout: got 0.1; wanted 0.0: no form does it. Set it to 0;",
    ),
    "bias": (
        lambda: choices(target_modules=["last"], bias="all"),
        ValueError,
        "config.bias: got 'all'; wanted 'none': no form does it.",
    ),
    "a start that changes the base": (
        lambda: choices(target_modules=["last"], init_lora_weights="pissa"),
        ValueError,
        "config.init_lora_weights: got 'pissa'; wanted True: generated factors start as LoRA's",
    ),
    "a tied tensor": (
        lambda: hl.peft.choices(tied(), peft.LoraConfig(target_modules=["1"])),
        ValueError,
        "target_modules: got the tied tensor '0.weight' and '1.weight'; wanted a tensor that",
    ),
    "a tied tensor to export": (
        lambda: of_form(hl.LoRA(2), hl.Full(), tied()),
        ValueError,
        "hnet: got the tied tensor '0.weight' and '1.weight'; wanted a tensor that stands in one",
    ),
    "a learned base": (
        lambda: of_form(hl.LoRA(2, trained=True)),
        ValueError,
        "form: got LoRA(2, trained=True) for 'last.weight', whose base is learned too; wanted",
    ),
    "no LoRA": (
        lambda: of_form(hl.Delta()),
        ValueError,
        "form: got no LoRA or DoRA; wanted one for some layer at least.",
    ),
    "two methods": (
        lambda: of_form(
            {"last.weight": hl.LoRA(2), "table.weight": hl.DoRA(2)},
            {"last.weight": hl.Full(), "table.weight": hl.Full()},
        ),
        ValueError,
        "form: got LoRA and DoRA; wanted one of them: an adapter has one.",
    ),
    "a bias beside LoRA": (
        lambda: of_form(
            {"last.weight": hl.LoRA(2), "last.bias": hl.Delta()}, {"last.*": hl.Full()}
        ),
        ValueError,
        "layout: got other tensors of 'last' beside its LoRA; wanted modules with LoRA or",
    ),
    "too few folders": (
        lambda: hl.peft.export(small()[1], [0, 1], ["a"]),
        ValueError,
        "folder: got 1 different folders; wanted 2, one for each condition.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    call, kind, text = REFUSED[name]
    with pytest.raises(kind, match=re.escape(text)):
        call()


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    _, hnet = small()
    folder = tmp_path / "adapter"
    hl.peft.export(hnet, 0, folder)

    def refused(text: str, other: hl.HyperNetwork, **more: Any) -> None:
        with pytest.raises(ValueError, match=re.escape(text)):
            hl.peft.load(other, [folder], **more)

    def of_three(model: nn.Module, form: Any, layout: Any = None) -> Any:
        names = ("table.weight", "conv.weight", "last.weight")
        layout = dict.fromkeys(names, hl.Full()) if layout is None else layout
        layout = layout | {"norm.*": hl.Full()}
        form = dict.fromkeys(names, form) | {"norm.*": hl.Delta()}
        form = {name: value for name, value in form.items() if name in layout}
        return hl.HyperNetwork(model, condition=hl.Embedding(3, 4), layout=layout, form=form)

    torch.manual_seed(0)
    same = Small()
    refused("of another base: 'table.weight' has other values", of_three(Small(), hl.LoRA(3)))
    small_rank = of_three(same, hl.LoRA(2))
    refused("folders: got rank 3 for 'table.weight'; wanted at most 2, as LoRA(2)", small_rank)
    two = of_three(same, hl.LoRA(3), {"table.weight": hl.Full(), "last.weight": hl.Full()})
    refused("with 'conv.lora_A.weight'; wanted an adapter of layers", two)
    refused("without a magnitude for 'table.weight'", of_three(same, hl.DoRA(3)))
    refused("ids: got 'table.weight' from the head 'full'; wanted tensors of", hnet, ids=[0])
    refused("ids: got [7]; wanted 1 different ids in 0 .. 2", hnet, ids=[7])
    with pytest.raises(TypeError, match="folders: got 'adapter'; wanted a list of folders"):
        hl.peft.load(hnet, "adapter")
    with pytest.raises(FileNotFoundError, match="wanted a folder with adapter_config"):
        hl.peft.load(hnet, [tmp_path])
    (folder / "adapter_model.safetensors").write_bytes(b"cut")
    refused("which is no safetensors file", hnet)


def test_a_rank_below_the_forms_is_filled_up(tmp_path: Path) -> None:
    model, hnet = small()
    hl.peft.export(hnet, 0, tmp_path / "adapter")
    layout: Any = dict.fromkeys(("table.weight", "conv.weight", "last.weight"), hl.Full())
    more = {"norm.*": hl.Full()}
    form: Any = dict.fromkeys(layout, hl.LoRA(5, alpha=2.0)) | {"norm.*": hl.Delta()}
    other = hl.HyperNetwork(model, condition=hl.Vector(3), layout=layout | more, form=form)
    factors = hl.peft.load(other, [tmp_path / "adapter"])
    for name, (a, b, scaling) in hnet.factors(0).items():
        assert factors[name].a.shape[-2] == 5
        change = factors[name].scaling * factors[name].b[0] @ factors[name].a[0]
        torch.testing.assert_close(change, scaling * b @ a)
