"""Checkpoints: what comes back, and what the file is."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom import extend
from hyperloom._core import choice
from hyperloom._core.checkpoint import file
from tests._support.on_torch import shaken
from tests.on_torch.builders import LAYOUTS, make_with_trunk, mlp, other_seed, same_outputs
from tests.on_torch.snapshots import refused, unchanged

FORMS = {"whole": hl.Whole(), "delta": hl.Delta(), "delta-trained": hl.Delta(trained=True)}


# ---- what comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip(layout: str, form: str, tmp_path: Path) -> None:
    hnet = make_with_trunk(layout=LAYOUTS[layout], form=FORMS[form])
    path = tmp_path / "hnet.safetensors"
    with unchanged(hnet):
        hl.save(hnet, path, with_base=True)
    # A target with other values: kept tensors, bases and scales come from the file.
    target = other_seed()
    with unchanged(target):
        again = hl.load(path, target)
    assert again.plan == hnet.plan
    assert list(again.state_dict()) == list(hnet.state_dict())
    same_outputs(hnet, again, [0, 1, 2])
    x = torch.randn(3, 7, 3)
    assert torch.equal(hnet(x, condition=[0, 1, 2]), again(x, condition=[0, 1, 2]))
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in hnet.named_parameters()]
    # Into a hypernetwork that is there.
    third = make_with_trunk(7, other_seed(), layout=LAYOUTS[layout], form=FORMS[form])
    third.load(path)
    same_outputs(hnet, third, [0, 1, 2])
    assert torch.equal(hnet(x, condition=[0, 1, 2]), third(x, condition=[0, 1, 2]))


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        (hl.Vector(4), torch.ones(2, 4)),
        (hl.Noise(4, std=0.5), torch.ones(2, 4)),
        (hl.Concat(hl.Embedding(3, 2), hl.Vector(4)), ([0, 2], torch.ones(2, 4))),
    ],
    ids=["vector", "noise", "concat"],
)
@pytest.mark.parametrize(
    "trunk",
    [None, hl.MLP(6, 4, activation="gelu", norm=None), hl.MLP(5, norm="batch", dropout=0.5)],
    ids=["none", "plain", "batch"],
)
def test_conditions_and_trunks_come_back(
    condition: Any, value: Any, trunk: Any, tmp_path: Path
) -> None:
    hnet = make_with_trunk(condition=condition, trunk=trunk, layout=hl.Chunked(7, 3))
    if trunk is not None:
        hnet(torch.randn(2, 7, 3), condition=value)  # moves the trunk's statistics, if it has any
    hl.save(hnet, tmp_path / "hnet", with_base=True)
    again = hl.load(tmp_path / "hnet", other_seed())
    assert again.plan.condition == hnet.plan.condition
    assert again.plan.trunk == hnet.plan.trunk
    same_outputs(hnet.eval(), again.eval(), value)


def test_ids_that_were_added_come_back(tmp_path: Path) -> None:
    for layout in (hl.Full(), hl.PerCondition(), hl.Chunked(7, 3, per_condition=True)):
        hnet = make_with_trunk(layout=layout)
        hnet.add_conditions(2)
        hnet.add_conditions(1)
        hl.save(hnet, tmp_path / "hnet", with_base=True)
        again = hl.load(tmp_path / "hnet", other_seed())
        assert again.plan.num_ids == 6
        assert again.plan == hnet.plan
        same_outputs(hnet, again, range(6))
        # One table in the file, whatever blocks it grew in: it fits any hypernetwork of six ids.
        grown = make_with_trunk(5, layout=layout)
        grown.add_conditions(3)
        grown.load(tmp_path / "hnet")
        same_outputs(hnet, grown, range(6))
        assert [len(block) for block in grown.condition.table] == [3, 3]  # type: ignore[attr-defined]


def test_added_ids_start_alike_after_loading(tmp_path: Path) -> None:
    # What new ids start from (the template's values) is in the file, too.
    hnet = make_with_trunk(layout=hl.PerCondition(), init=hl.BiasHyperInit())
    hl.save(hnet, tmp_path / "hnet", with_base=True)
    again = hl.load(tmp_path / "hnet", other_seed())
    for one in (hnet, again):
        one.add_conditions(1)
    assert torch.equal(hnet.generate(3)["0.weight"], again.generate(3)["0.weight"])


class Buffers(nn.Module):
    """Statistics, a mask with infinities, a counter, a cache that is not to be saved."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))
        self.register_buffer("cache", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(x)) + self.mask.exp().sum(0)


def test_buffers_come_back(tmp_path: Path) -> None:
    target = Buffers()
    target(torch.randn(50, 3) + 1)  # moves the statistics
    hnet = make_with_trunk(target=target)
    hl.save(hnet, tmp_path / "hnet", with_base=True)
    fresh = Buffers()
    again = hl.load(tmp_path / "hnet", fresh)
    x = torch.randn(5, 3)
    assert torch.equal(hnet.eval()(x, condition=1), again.eval()(x, condition=1))
    buffers = dict(again.instantiate(0).named_buffers())
    assert torch.equal(buffers["norm.running_mean"], target.norm.running_mean)  # type: ignore[arg-type]
    assert buffers["norm.num_batches_tracked"] == 1
    assert torch.equal(fresh.norm.running_mean, torch.zeros(4))  # type: ignore[arg-type]
    assert not any("cache" in name for name in load_file(tmp_path / "hnet"))


def test_odd_kept_tensors_come_back(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.phase = nn.Parameter(torch.full((2,), value, dtype=torch.complex64))
            self.short = nn.Parameter(torch.full((2,), value).half())
            index = torch.full((2,), int(value))
            self.index = nn.Parameter(index, requires_grad=False)
            self.flag = nn.Parameter(torch.tensor([value > 1]), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * self.phase.abs() + self.short + self.index

    hnet = make_with_trunk(target=Odd(2.0), layout={"fc.*": hl.Full()})
    hl.save(hnet, tmp_path / "hnet", with_base=True)
    again = hl.load(tmp_path / "hnet", Odd(0.0))
    made, then = again.instantiate(0).state_dict(), hnet.instantiate(0).state_dict()
    for name in then:
        assert made[name].dtype == then[name].dtype
        assert torch.equal(made[name], then[name]), name


def test_modules_of_the_users_own_come_back(tmp_path: Path) -> None:
    def parts(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 5))
        return {"condition": encoder, "trunk": nn.Sequential(nn.Linear(8, 6), nn.Tanh())}

    hnet = make_with_trunk(layout=hl.Chunked(7, embedding=3), **_with_width(parts(0)))
    hl.save(hnet, tmp_path / "hnet", with_base=True)
    again = hl.load(tmp_path / "hnet", other_seed(), **_with_width(parts(1)))
    same_outputs(hnet, again, torch.ones(4, 2))
    for missing in ("condition", "trunk"):
        given = {k: v for k, v in _with_width(parts(2)).items() if k != missing}
        text = (
            f"checkpoint {tmp_path / 'hnet'}: got a hypernetwork with a {missing} module of its own"
        )
        target = other_seed()
        call = lambda: hl.load(tmp_path / "hnet", target, **given)  # noqa: E731, B023
        refused(call, hl.CheckpointError, text, target, *given.values())


def _with_width(parts: dict[str, Any]) -> dict[str, Any]:
    parts["trunk"].dim = 6
    return parts


def test_a_module_for_a_part_that_has_none_is_refused(tmp_path: Path) -> None:
    hl.save(make_with_trunk(), tmp_path / "hnet")
    encoder, target = nn.Linear(2, 5), other_seed()
    text = (
        f"condition: got a Linear; wanted None, as {tmp_path / 'hnet'} has Embedding(3, 5) as its "
        "condition."
    )
    call = lambda: hl.load(tmp_path / "hnet", target, condition=encoder)  # noqa: E731
    refused(call, hl.CheckpointError, text, encoder, target)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_converted_hypernetwork_comes_back_in_its_dtype(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    hnet = make_with_trunk(layout={"0.*": hl.Full(), "2.*": hl.Chunked(5)}).to(dtype)
    hl.save(hnet, tmp_path / "hnet", with_base=True)
    again = hl.load(tmp_path / "hnet", other_seed())
    same_outputs(hnet, again, [0, 1])
    x = torch.ones(2, 7, 3, dtype=dtype)
    assert torch.equal(hnet(x, condition=[0, 1]), again(x, condition=[0, 1]))
    # Numbers are never rounded in silence.
    other = make_with_trunk(3, layout={"0.*": hl.Full(), "2.*": hl.Chunked(5)})
    text = (
        f"checkpoint {tmp_path / 'hnet'}: got 'scales' of dtype {dtype}; wanted "
        f"torch.float32. Convert the hypernetwork first: .to({dtype})."
    )
    refused(lambda: other.load(tmp_path / "hnet"), hl.CheckpointError, text, other)
    other.to(dtype).load(tmp_path / "hnet")
    same_outputs(hnet, other, [0, 1])


def test_a_float64_target_comes_back(tmp_path: Path) -> None:
    hnet = make_with_trunk(target=mlp().double(), layout=hl.Grouped())
    hl.save(hnet, tmp_path / "hnet", with_base=True)
    same_outputs(hnet, hl.load(tmp_path / "hnet", other_seed().double()), [0, 1, 2])


def test_training_goes_on_after_loading(tmp_path: Path) -> None:
    hnet = make_with_trunk()
    hl.save(hnet, tmp_path / "hnet", with_base=True)
    again = hl.load(tmp_path / "hnet", other_seed())
    assert again.training
    for one in (hnet, again):
        optimizer = torch.optim.Adam(one.parameters(), lr=0.01)
        one(torch.ones(2, 7, 3), condition=[0, 1]).square().mean().backward()
        optimizer.step()
    same_outputs(hnet, again, [0, 1, 2])


# ---- what the file is ----------------------------------------------------------------------------


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    hnet = make_with_trunk(layout=LAYOUTS["mix"])
    path = tmp_path / "hnet.safetensors"
    hl.save(hnet, path, with_base=True)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    description = json.loads(header["__metadata__"]["hyperloom"])
    assert list(description) == ["format", "version", "plan", "digest"]
    assert description["format"] == 1
    # No pickle: not a zip, no pickle opcodes at the front, only numbers after the header.
    assert raw[8:9] == b"{"
    assert not raw.startswith((b"PK", b"\x80"))
    tensors = load_file(path)
    assert len(raw) == 8 + length + sum(t.numel() * t.element_size() for t in tensors.values())
    assert set(tensors) == {
        "scales",
        "condition.table",
        "trunks.0.0.weight",
        "trunks.0.0.bias",
        "trunks.1.0.weight",
        "trunks.1.0.bias",
        "heads.chunked.weight",
        "heads.chunked.bias",
        "heads.chunked.slots",
        "heads.per_condition.table",
        "heads.full.weight",
        "heads.full.bias",
        "kept.4.weight",
        "kept.4.bias",
    }


def test_a_plan_is_read_without_torch(tmp_path: Path) -> None:
    hnet = make_with_trunk(layout=LAYOUTS["mix"])
    hl.save(hnet, tmp_path / "hnet", with_base=True)
    code = f"""
import sys
from dataclasses import dataclass
for name in ("torch", "jax", "safetensors"):
    sys.modules[name] = None
from hyperloom._core.checkpoint.file import read_description
described = read_description({str(tmp_path / "hnet")!r})
print(described.plan)
print(described.version, described.shapes["condition.table"], described.dtypes["condition.table"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{hnet.plan}\n0.1.0.dev0 (3, 5) F32\n"


def test_saving_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hnet"
    first, second = make_with_trunk(0), make_with_trunk(1)
    hl.save(first, path, with_base=True)
    before = path.read_bytes()

    def half_written(tensors: Any, name: Any, metadata: Any) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("hyperloom.torch._tools.checkpoint.save_file", half_written)
        with unchanged(second), pytest.raises(OSError, match="the disk is full"):
            hl.save(second, path, with_base=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["hnet"]
    hl.save(second, path, with_base=True)
    same_outputs(second, hl.load(path, other_seed()), [0, 1, 2])
    assert os.listdir(tmp_path) == ["hnet"]


@dataclass(frozen=True, repr=False)
class Halved(extend.OnBase):
    """A form of a user's own."""

    part: float = 0.5

    def parts(self, tensor: extend.TensorSpec, start: extend.Start) -> tuple[extend.Part, ...]:
        return super().parts(tensor, extend.ZERO)

    def structure(self, tensor: extend.TensorSpec) -> extend.Structure:
        return extend.Formed(lambda parts, base: base * self.part + parts[0])


def test_a_form_of_a_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hnet = shaken(make_with_trunk(form={"0.weight": Halved(0.25), "*": hl.Whole()}))
    path = tmp_path / "hnet"
    hl.save(hnet, path, with_base=True)
    again = hl.load(path, other_seed())
    assert again.plan.entries[0].form == Halved(0.25)
    same_outputs(hnet, again, [0, 1, 2])
    # In a process that has not imported what defines it.
    known = {key: cls for key, cls in choice._DEFINED.items() if cls is not Halved}
    monkeypatch.setattr(choice, "_DEFINED", known)
    text = (
        f"checkpoint {path}: got a 'Halved' of {__name__}, a class that is not defined here; "
        "wanted a class 'Halved'. Define it, or import the module that does "
        f"({__name__}), before loading."
    )
    with pytest.raises(hl.CheckpointError, match=f"^{re.escape(text)}$"):
        hl.load(path, other_seed())


def test_reading_while_another_file_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hnet"
    first, second = make_with_trunk(0), make_with_trunk(1)
    hl.save(first, path)
    describe: Any = file._describe

    def slowly(*arguments: Any) -> Any:
        described = describe(*arguments)
        hl.save(second, path)  # between the description and the tensors
        return described

    with monkeypatch.context() as patch:
        patch.setattr(file, "_describe", slowly)
        same_outputs(first, hl.load(path, other_seed()), [0, 1, 2])
    same_outputs(second, hl.load(path, other_seed()), [0, 1, 2])


@pytest.mark.skipif(os.name != "posix", reason="links and devices are POSIX")
def test_a_link_is_followed_and_a_device_is_refused(tmp_path: Path) -> None:
    hnet = make_with_trunk()
    there, link = tmp_path / "there", tmp_path / "link"
    link.symlink_to(there)
    for _ in range(2):  # to nothing; to a file
        hl.save(hnet, link)
        assert link.is_symlink()
        assert not there.is_symlink()
        same_outputs(hnet, hl.load(there, other_seed()), [0, 1, 2])
    os.mkfifo(tmp_path / "pipe")
    for name, kind in ((os.devnull, "a device or pipe"), (tmp_path / "pipe", "a device or pipe")):
        with pytest.raises(ValueError, match=f"^path: got {name}, {kind}; wanted the path of a"):
            hl.save(hnet, name)
    with pytest.raises(ValueError, match=r"^path: got .*, a folder; wanted the path of a file\."):
        hl.save(hnet, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe", "there"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    hnet = make_with_trunk()
    with unchanged(hnet), pytest.raises(FileNotFoundError):
        hl.save(hnet, tmp_path / "no" / "hnet", with_base=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_saved_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("text")
    hl.save(make_with_trunk(), tmp_path / "hnet")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "hnet")}
    assert len(modes) == 1


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex128))

    hnet = make_with_trunk(target=Wide(), layout={"fc.*": hl.Full()})
    text = "hnet: got 'kept.phase' of dtype torch.complex128; wanted one of float64, float32, "
    refused(lambda: hl.save(hnet, tmp_path / "hnet", with_base=True), TypeError, text, hnet)
    assert os.listdir(tmp_path) == []


# ---- a base that the file does not hold ----------------------------------------------------------


def large(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 3))


def adapted(target: nn.Module, seed: int = 1) -> hl.HyperNetwork:
    torch.manual_seed(seed)
    layout = {"*.weight": hl.Grouped(embedding=3)}
    return hl.HyperNetwork(
        target, condition=hl.Embedding(4, 3), layout=layout, form={"*.weight": hl.LoRA(2)}
    )


def test_a_file_holds_what_is_learned(tmp_path: Path) -> None:
    target = large()
    hnet = adapted(target)
    with unchanged(target):
        hl.save(hnet, tmp_path / "hnet")
        hl.save(hnet, tmp_path / "whole", with_base=True)
        again, other = hl.load(tmp_path / "hnet", target), adapted(target, 2)
        other.load(tmp_path / "hnet")
    learned = sum(t.nbytes for t in hnet.state_dict().values())
    base = sum(p.nbytes for p in target.parameters())
    sizes = [(tmp_path / name).stat().st_size for name in ("hnet", "whole")]
    header = sizes[0] - learned
    assert 0 < header < 20_000
    assert sizes[1] > learned + base
    x = torch.randn(2, 5, 64)
    for loaded in (again, other, hl.load(tmp_path / "whole", large(7))):
        assert torch.equal(loaded(x, condition=[0, 3]), hnet(x, condition=[0, 3]))
    held = dict(again.bases.tensors())["0.weight"]
    assert held.data_ptr() == target.get_parameter("0.weight").data_ptr()


def test_another_base_is_refused(tmp_path: Path) -> None:
    hnet, path = adapted(large()), tmp_path / "hnet"
    hl.save(hnet, path)
    text = "got a target with another base; wanted the base that the hypernetwork was trained on"
    with pytest.raises(hl.CheckpointError, match=text):
        hl.load(path, large(7))
    other = adapted(large(7))
    start = f"checkpoint {path}: got a target with another base"
    refused(lambda: other.load(path), hl.CheckpointError, start, other)
    shifted = large()
    with torch.no_grad():
        shifted.get_parameter("2.bias")[1] += 1e-3  # kept, not generated
    with pytest.raises(hl.CheckpointError, match=r"with_base=True"):
        hl.load(path, shifted)


def test_a_module_that_shares_the_base() -> None:
    target = large()
    hnet = adapted(target)
    with unchanged(target):
        shared, whole = hnet.instantiate(1, copy=False), hnet.instantiate(1)
    kept = "0.bias"
    assert shared.get_parameter(kept).data_ptr() == target.get_parameter(kept).data_ptr()
    assert whole.get_parameter(kept).data_ptr() != target.get_parameter(kept).data_ptr()
    x = torch.randn(5, 64)
    torch.testing.assert_close(shared(x), hnet(x, condition=1))
    torch.testing.assert_close(whole(x), shared(x))
    with pytest.raises(TypeError, match="copy: got 'no'"):
        hnet.instantiate(1, copy="no")  # type: ignore[arg-type]
